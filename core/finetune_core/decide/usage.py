"""What attempts use: GPU time, its useful part, time in queues, steps that are repeated. Pure.

Sums grow by what an attempt's own record grows by, in the same write of the status: nothing is counted twice,
whichever visit the operator is stopped in.
"""

from datetime import datetime

from finetune_api.status import AttemptStatus, FineTuneJobStatus, UsageStatus
from finetune_core.decide.context import Context, seconds_between


def used_until(context: Context, attempt: AttemptStatus, time: datetime) -> tuple[Context, AttemptStatus]:
    """The attempt with its GPU time until then, and the sums with what that adds."""
    devices = _devices(context)
    seconds = devices * seconds_between(attempt.running_time, time)
    before, usage = attempt.gpu_seconds or 0, context.status.usage or UsageStatus()
    total = (usage.gpu_seconds or 0) + max(0, seconds - before)
    useful = _useful(context.status, devices, total)
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


def lost_steps(attempt: AttemptStatus, status: FineTuneJobStatus) -> int | None:
    """Steps that it reported after its last checkpoint; those of a run that published its model are none."""
    if attempt.to_step is None:
        return None
    if attempt.exit_code == 0:
        return 0
    saved = status.latest_checkpoint.step if status.latest_checkpoint else attempt.from_step or 0
    return max(0, attempt.to_step - saved)


def resumed_from(attempts: list[AttemptStatus]) -> list[AttemptStatus]:
    """The records with the lost steps of the attempt before, as the newest one's first step shows them."""
    if len(attempts) < 2:
        return attempts
    *earlier, before, last = attempts
    if before.to_step is None or last.from_step is None:
        return attempts
    lost = max(0, before.to_step - last.from_step)
    return [*earlier, before.model_copy(update={"lost_steps": lost}), last]


def _devices(context: Context) -> int:
    """GPUs of the attempt; 1 on a CPU."""
    effective = context.status.effective
    resources = effective.resources if effective else None
    if resources is None or not context.job.trains:
        return 1
    return max(1, (resources.gpus_per_node or 0) * (resources.nodes or 1))


def _useful(status: FineTuneJobStatus, devices: int, total: int) -> int | None:
    trained = status.progress.train_seconds if status.progress else None
    return None if trained is None else min(total, round(devices * trained))
