"""The conditions of a status, from a short verdict. Pure; a condition's time moves only when its status does."""

from dataclasses import dataclass, replace
from datetime import datetime

from finetune_api.base import MESSAGE_LENGTH
from finetune_api.status import Condition, ConditionType, Phase, Reason

_OPTIONAL = (ConditionType.RECONCILING, ConditionType.STALLED)


@dataclass(frozen=True)
class Verdict:
    """The state of a job: its phase and the reason. `stalled` means that it cannot proceed with this spec."""

    phase: Phase
    reason: Reason
    message: str
    stalled: bool = False

    def cut(self) -> "Verdict":
        """A copy with a message that fits the schema."""
        return replace(self, message=self.message[:MESSAGE_LENGTH])


def running_of(conditions: list[Condition]) -> Condition | None:
    """The condition Running, whose reason and message are those of the job's state; None before the first status."""
    return next((one for one in conditions if one.type is ConditionType.RUNNING), None)


def conditions_of(verdict: Verdict, old: list[Condition], generation: int, now: datetime) -> list[Condition]:
    """All conditions of a job with this verdict."""
    verdict = verdict.cut()
    before = {condition.type: condition for condition in old}
    return [
        _condition(kind, *answer, before.get(kind), generation, now)
        for kind, answer in _answers(verdict).items()
        if kind not in _OPTIONAL or answer[0]
    ]


def _answers(verdict: Verdict) -> dict[ConditionType, tuple[bool, Reason, str]]:
    """Every condition's status, reason and message."""
    phase, reason, message = verdict.phase, verdict.reason, verdict.message
    succeeded, failed = phase is Phase.SUCCEEDED, phase is Phase.FAILED
    finished = succeeded or failed
    suspended = phase is Phase.SUSPENDED
    open_reason = reason if finished else Reason.NOT_FINISHED
    return {
        ConditionType.RUNNING: (phase is Phase.RUNNING, reason, message),
        ConditionType.COMPLETE: (succeeded, open_reason, message if finished else ""),
        ConditionType.FAILED: (failed, open_reason, message if finished else ""),
        ConditionType.SUSPENDED: (
            suspended,
            reason if suspended else Reason.NOT_SUSPENDED,
            message if suspended else "",
        ),
        ConditionType.FINISHED: (finished, _finished_reason(verdict), message if finished else ""),
        ConditionType.RECONCILING: (not finished and not suspended and not verdict.stalled, reason, message),
        ConditionType.STALLED: (failed or verdict.stalled, reason, message),
    }


def _finished_reason(verdict: Verdict) -> Reason:
    """`Finished` has one of two reasons, so that one `kubectl wait` suffices."""
    return {Phase.SUCCEEDED: Reason.SUCCEEDED, Phase.FAILED: Reason.FAILED}.get(
        verdict.phase, Reason.NOT_FINISHED
    )


def _condition(
    kind: ConditionType,
    true: bool,
    reason: Reason,
    message: str,
    before: Condition | None,
    generation: int,
    now: datetime,
) -> Condition:
    status = "True" if true else "False"
    unchanged = before is not None and before.status == status
    return Condition(
        type=kind,
        status=status,
        reason=reason.value,
        message=message,
        last_transition_time=before.last_transition_time if before and unchanged else now,
        observed_generation=generation,
    )
