"""A pod that used more memory than it may: another micro-batch once, then a limit that would do. Pure."""

from dataclasses import replace

from finetune_api.status import FineTuneJobStatus, Reason
from finetune_core.decide.context import Context
from finetune_core.decide.failure import Evidence, Failure
from finetune_core.decide.quantity import bytes_of, enough, readable


def next_micro_batch_size(status: FineTuneJobStatus) -> int | None:
    """That of the next attempt: half of what was too much, and then what the last attempt had."""
    last = status.attempts[-1] if status.attempts else None
    if last is None or last.reason != Reason.HOST_OUT_OF_MEMORY:
        return last.micro_batch_size if last else None
    size = last.micro_batch_size or _measured(status)
    return max(1, size // 2) if size else None


def with_remedy(context: Context, evidence: Evidence, failure: Failure) -> Failure:
    """The failure with what follows from it: a smaller micro-batch once, then a limit that would do."""
    if failure.reason is not Reason.HOST_OUT_OF_MEMORY:
        return failure
    status = context.status
    size = status.attempts[-1].micro_batch_size or _measured(status)
    again = any(one.reason == Reason.HOST_OUT_OF_MEMORY for one in status.attempts[:-1])
    if again or size == 1:
        return replace(failure, retry=False, message=_too_much(context, evidence, size))
    if size:
        halved = (
            f"{failure.message}; the next attempt computes micro-batches of {size // 2} instead of {size}"
        )
        return replace(failure, message=halved)
    return failure


def _too_much(context: Context, evidence: Evidence, size: int | None) -> str:
    limit = evidence.pod.memory_limit if evidence.pod else None
    progress = context.status.progress
    peak = progress.host_memory_bytes if progress else None
    wanted = enough(bytes_of(limit), peak)
    with_size = f" with micro-batches of {size}" if size else ""
    measured = f"; the last measured peak was {readable(peak)}" if peak else ""
    remedy = (
        f"set spec.resources.limits.memory: {wanted}"
        if wanted
        else "set spec.resources.requests.memory and limits.memory, so that the pod runs where there is enough"
    )
    return (
        f"the pod used more than the memory {f'limit of {limit}' if limit else 'of its node'} and was"
        f" killed{with_size}{measured}; {remedy}"
    )


def _measured(status: FineTuneJobStatus) -> int | None:
    """The micro-batch size that the trainer reported, else the one that the spec asks for."""
    effective = status.effective
    if effective is None:
        return None
    asked = effective.training.micro_batch_size if effective.training else None
    return effective.micro_batch_size or asked
