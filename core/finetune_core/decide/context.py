"""The values that decisions are based on."""

from dataclasses import dataclass, replace
from datetime import datetime

from finetune_api.status import AttemptStatus, FineTuneJobStatus, PreflightStatus
from finetune_core.decide.actions import Action, Decision
from finetune_core.decide.conditions import Verdict, conditions_of
from finetune_core.decide.display import display_of
from finetune_core.decide.improvement import improved
from finetune_core.decide.observation import Observation
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.nodes import count_of
from finetune_core.settings import OperatorSettings


@dataclass(frozen=True)
class Context:
    """A FineTuneJob, what its defaults become, what is observed of its children, the time and the settings."""

    job: FineTuneJob
    resolved: Resolved
    observation: Observation
    now: datetime
    settings: OperatorSettings

    @property
    def status(self) -> FineTuneJobStatus:
        """The job's status as decided so far."""
        return self.job.status

    @property
    def open_attempt(self) -> AttemptStatus | None:
        """The attempt that has not ended."""
        attempts = self.status.attempts
        return attempts[-1] if attempts and attempts[-1].end_time is None else None

    @property
    def nodes(self) -> int:
        """Number of pods of the newest attempt. Those of a search or an ensemble itself have one."""
        effective = self.status.effective
        accepted = effective.resources if effective and effective.resources else self.resolved.resources
        return 1 if self.job.is_parent else count_of(accepted)

    @property
    def open_preflight(self) -> PreflightStatus | None:
        """The preflight that has not ended."""
        found = self.status.preflight
        return found if found and found.end_time is None else None

    def with_status(self, status: FineTuneJobStatus) -> "Context":
        """A copy with another status."""
        return replace(self, job=replace(self.job, status=status))

    def update(self, **fields: object) -> "Context":
        """A copy with some fields of the status changed."""
        return self.with_status(self.status.model_copy(update=fields))

    def with_attempt(self, attempt: AttemptStatus) -> "Context":
        """A copy with the newest attempt's record replaced."""
        return self.update(attempts=[*self.status.attempts[:-1], attempt])

    def conclude(
        self, verdict: Verdict, action: Action = Action.NOTHING, requeue_at: datetime | None = None
    ) -> Decision:
        """Decide on a verdict: it becomes phase, conditions and columns."""
        status = with_verdict(self.status, self.job.generation, verdict, self.now)
        return Decision(status, action, requeue_at)


def with_verdict(
    status: FineTuneJobStatus, generation: int, verdict: Verdict, now: datetime
) -> FineTuneJobStatus:
    """The status with the phase, conditions and columns of a verdict."""
    status = status.model_copy(
        update={
            "observed_generation": generation,
            "phase": verdict.phase,
            "conditions": [
                *conditions_of(verdict, status.conditions, generation, now),
                *improved(status, generation, now),
            ],
        }
    )
    return status.model_copy(update={"display": display_of(status, verdict.message)})


def seconds_between(start: datetime | None, end: datetime) -> int:
    """Whole seconds since `start`; 0 if it is None or in the future."""
    return max(0, int((end - start).total_seconds())) if start else 0
