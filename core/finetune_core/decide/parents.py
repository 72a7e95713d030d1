"""What a search and an ensemble share: their runs train, then an attempt of the parent itself concludes. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from finetune_api.status import (
    Condition,
    ConditionType,
    EffectiveStatus,
    FineTuneJobStatus,
    Phase,
    Reason,
    TrialState,
)
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.context import seconds_between
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import Run


@dataclass(frozen=True)
class ParentDecision:
    """The next status; the run to create, if any; the runs to stop or to let go on.

    `concludes` if all runs that are needed have ended: what follows is up to `decide`, with an attempt of the parent.
    """

    status: FineTuneJobStatus
    create: Run | None = None
    stop: tuple[Run, ...] = ()
    resume: tuple[Run, ...] = ()
    requeue_at: datetime | None = None
    concludes: bool = False


def runs_children(job: FineTuneJob) -> bool:
    """Whether the next step is up to the job's runs: it is a search or an ensemble, and has no attempt yet."""
    return job.is_parent and job.status.attempt is None and job.status.completion_time is None


def verdict_of_runs(
    job: FineTuneJob, open_runs: Collection[TrialState], noun: str, news: str, stopping: str | None
) -> Verdict:
    """What a parent says while its runs are open; `noun` is what they are called, `stopping` why they are stopped."""
    if job.spec.suspend and not at_rest(open_runs):
        return Verdict(
            Phase.PENDING, Reason.STOPPING, f"its {noun} save a checkpoint and stop (spec.suspend)"
        )
    if job.spec.suspend:
        message = f"suspended by spec.suspend; set it to false to resume. {news}"
        return Verdict(Phase.SUSPENDED, Reason.SUSPENDED, message)
    running = TrialState.RUNNING in open_runs
    phase, reason = (Phase.RUNNING, Reason.RUNNING) if running else (Phase.PENDING, Reason.PENDING)
    return Verdict(phase, Reason.STOPPING, stopping) if stopping else Verdict(phase, reason, news)


def at_rest(open_runs: Collection[TrialState]) -> bool:
    """Whether nothing trains or is about to."""
    return all(state is TrialState.SUSPENDED for state in open_runs)


def active_seconds(status: FineTuneJobStatus, now: datetime) -> int:
    """Seconds since the first run was created, without those in which the parent was suspended."""
    return (status.active_seconds or 0) + seconds_between(_running_since(status), now)


def _running_since(status: FineTuneJobStatus) -> datetime | None:
    """When the parent began or was resumed; None while it is suspended."""
    suspended: Condition | None = next(
        (one for one in status.conditions if one.type is ConditionType.SUSPENDED), None
    )
    if status.start_time is None or suspended is None or suspended.status == "True":
        return None
    return max(status.start_time, suspended.last_transition_time)


def parent_status(job: FineTuneJob, resolved: Resolved, now: datetime, *, at_rest: bool) -> FineTuneJobStatus:
    """The parent's status without its runs; `at_rest` once it is suspended and the clock stands."""
    status = job.status
    effective = (status.effective or EffectiveStatus()).model_copy(
        update={
            "training": job.spec.resolved_training(),
            "resources": resolved.resources,
            "output_uri": resolved.output_uri,
            "image": resolved.image,
        }
    )
    return status.model_copy(
        update={
            "effective": effective,
            "start_time": status.start_time or (None if job.spec.suspend else now),
            "active_seconds": active_seconds(status, now) if at_rest else status.active_seconds,
        }
    )


def invalid(fault: str) -> Verdict:
    """The verdict on a spec that can never work."""
    message = f"{fault}; correct it in a new FineTuneJob"
    return Verdict(Phase.PENDING, Reason.INVALID_SPEC, message, stalled=True)
