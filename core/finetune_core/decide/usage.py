"""What attempts use: GPU time, its useful part, time in queues, steps that are repeated. Pure.

Sums grow by what an attempt's own record grows by, in the same write of the status: nothing is counted twice,
whichever visit the operator is stopped in.
"""

from datetime import datetime

from finetune_api.run import ReachedStep, RunReport
from finetune_api.status import AttemptStatus, CheckpointStatus, FineTuneJobStatus, UsageStatus
from finetune_core.decide.context import Context, seconds_between
from finetune_core.decide.reports import with_attempt_report, with_report


def used_until(context: Context, attempt: AttemptStatus, time: datetime) -> tuple[Context, AttemptStatus]:
    """The attempt with its GPU time until then, and the sums with what that adds."""
    devices = _devices(context)
    seconds = devices * seconds_between(attempt.running_time, time)
    before, usage = attempt.gpu_seconds or 0, context.status.usage or UsageStatus()
    total = (usage.gpu_seconds or 0) + max(0, seconds - before)
    useful = _useful(context, attempt, devices, total, time)
    usage = usage.model_copy(
        update={
            "gpu_seconds": total,
            "useful_gpu_seconds": useful,
            "goodput": None if useful is None or not total else round(useful / total, 4),
        }
    )
    return context.update(usage=usage), attempt.model_copy(update={"gpu_seconds": max(seconds, before)})


def queued(context: Context, begun: datetime | None, until: datetime) -> Context:
    """The sums with the time that an attempt waited for its container."""
    usage = context.status.usage or UsageStatus()
    waited = (usage.queued_seconds or 0) + seconds_between(begun, until)
    return context.update(usage=usage.model_copy(update={"queued_seconds": waited}))


def reported(
    context: Context, attempt: AttemptStatus, report: RunReport, time: datetime
) -> tuple[Context, AttemptStatus]:
    """Status and record with a report. The first one of new pods shows what those before them had lost."""
    after = with_attempt_report(attempt, report)
    resumed = after.from_step if attempt.from_step is None else None
    if resumed is not None:
        context, after = _resumed(context, after, attempt.to_step, resumed, report.reached)
    return context.with_status(with_report(context.status, report, time)).with_attempt(after), after


def newest_report(context: Context, attempt: AttemptStatus) -> RunReport | None:
    """The newest report of the attempt's pods, without what they said before they were evicted."""
    time, running = context.observation.report_time, attempt.running_time
    if attempt.evictions and (time is None or running is None or time < running):
        return None
    return context.observation.report_of(attempt.number)


def lost_steps(attempt: AttemptStatus, status: FineTuneJobStatus) -> int | None:
    """Steps that are lost as its pods end: of those that it reported since it resumed, what no checkpoint has.

    A run that published its model loses none; of a script that names no checkpoint nothing is known.
    """
    saved = status.latest_checkpoint.step if status.latest_checkpoint else attempt.from_step
    if attempt.to_step is None or saved is None or (attempt.evictions and attempt.from_step is None):
        return attempt.lost_steps
    lost = 0 if attempt.exit_code == 0 else max(0, attempt.to_step - saved)
    return (attempt.lost_steps or 0) + lost


def _resumed(
    context: Context, attempt: AttemptStatus, reached: int | None, step: int, found: ReachedStep | None
) -> tuple[Context, AttemptStatus]:
    """Training resumes from the checkpoint of a step: of this attempt, if it was evicted, or of the one before."""
    saved = context.status.latest_checkpoint.step if context.status.latest_checkpoint else 0
    if attempt.evictions and reached is not None:
        attempt = _with_certainty(attempt, reached, saved, step)
    elif context.status.attempts[1:]:
        *earlier, before, last = context.status.attempts
        if before.to_step is not None:
            before = _with_certainty(before, before.to_step, saved, step)
        if found and found.attempt == before.number:
            before = _with_more(before, found.step, step)
        context = context.update(attempts=[*earlier, before, last])
    return context.update(latest_checkpoint=CheckpointStatus(step=step) if step else None), attempt


def _with_certainty(attempt: AttemptStatus, reached: int, saved: int, resumed: int) -> AttemptStatus:
    """The steps after `saved` were taken for lost; those after `resumed` are."""
    lost = (attempt.lost_steps or 0) - max(0, reached - saved) + max(0, reached - resumed)
    return attempt.model_copy(update={"lost_steps": max(0, lost)})


def _with_more(attempt: AttemptStatus, reached: int, resumed: int) -> AttemptStatus:
    """The attempt had come further than it said, by what it left beside its checkpoints."""
    more = max(0, reached - max(attempt.to_step or 0, resumed))
    to_step = max(reached, attempt.to_step or 0)
    return attempt.model_copy(update={"to_step": to_step, "lost_steps": (attempt.lost_steps or 0) + more})


def _devices(context: Context) -> int:
    """GPUs of the attempt; 1 on a CPU."""
    effective = context.status.effective
    resources = effective.resources if effective else None
    if resources is None or not context.job.trains:
        return 1
    return max(1, (resources.gpus_per_node or 0) * (resources.nodes or 1))


def _useful(context: Context, attempt: AttemptStatus, devices: int, total: int, time: datetime) -> int | None:
    """Of attempts with other numbers of GPUs, whose shares of the training are not known, by their mean number."""
    status = context.status
    trained = status.progress.train_seconds if status.progress else None
    if trained is None:
        return None
    ran = (status.active_seconds or 0) + seconds_between(attempt.running_time, time)
    mean = devices if context.job.is_parent or not ran else total / ran
    return min(total, round(mean * trained))
