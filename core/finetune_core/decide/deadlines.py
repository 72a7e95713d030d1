"""Deadlines of a job: running time over all attempts, the delay before a retry, the TTL of its children. Pure."""

from datetime import datetime, timedelta
from itertools import takewhile

from finetune_api.base import MESSAGE_LENGTH
from finetune_api.status import ATTEMPTS_KEPT, AttemptStatus, Phase, Reason
from finetune_core.backoff import backoff
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.context import Context, seconds_between

LONGEST_PAUSE = timedelta(minutes=5)
"""Before a retry."""
_SOON = 600
RETRY_WINDOW = 21_600
"""Seconds for which a failure counts when the job does not say: as long as HyperPod's."""


def started_by_our_clock(
    moment: datetime, created: datetime | None, attempt: AttemptStatus, now: datetime
) -> datetime:
    """When a container started, as its node wrote. Its clock may be wrong: not before its pod was made, nor later."""
    return max(min(max(moment, created or moment), now), attempt.start_time or moment)


def ended_by_our_clock(moment: datetime | None, attempt: AttemptStatus, now: datetime) -> datetime:
    """When it ended, as its node wrote, if that can be."""
    begun = attempt.running_time or attempt.start_time or now
    return moment if moment and begun <= moment <= now else max(now, begun)


def over_deadline(context: Context, attempt: AttemptStatus | None = None) -> bool:
    """Whether activeDeadlineSeconds is used up, by ended attempts and the running one.

    That of a search or an ensemble is for its runs, and its student if it has one: what they have trained is recorded
    even after it.
    """
    if not context.job.trains:
        return False
    limit = context.job.spec.active_deadline_seconds
    running = seconds_between(attempt.running_time, context.now) if attempt else 0
    return limit is not None and (context.status.active_seconds or 0) + running >= limit


def deadline_of(context: Context, attempt: AttemptStatus) -> datetime | None:
    """When the running attempt uses up activeDeadlineSeconds."""
    limit = context.job.spec.active_deadline_seconds if context.job.trains else None
    if limit is None or attempt.running_time is None:
        return None
    return attempt.running_time + timedelta(seconds=limit - (context.status.active_seconds or 0))


def deadline_verdict(context: Context) -> Verdict:
    """The verdict on a job that exceeded its deadline."""
    return Verdict(
        Phase.FAILED,
        Reason.DEADLINE_EXCEEDED,
        f"training took longer than spec.activeDeadlineSeconds of {context.job.spec.active_deadline_seconds}; create a"
        " new job with a longer one or fewer epochs",
    )


def counted_failures(context: Context) -> int:
    """How many failures of the last hours count, with that of the attempt that has just been closed.

    What is older than `spec.retry.windowSeconds` no longer does, as long as all newer ones are still recorded.
    """
    window = timedelta(seconds=context.job.spec.retry.window_seconds or RETRY_WINDOW)
    attempts = context.status.attempts
    recent = [one for one in attempts if one.end_time and one.end_time > context.now - window]
    if len(attempts) == ATTEMPTS_KEPT and len(recent) == ATTEMPTS_KEPT:
        return (context.status.retries or 0) + 1
    counted = sum(one.counted is True for one in recent)
    return max(counted, 1)


def startup_deadline(
    context: Context, begun: datetime, *, missing: bool, since: datetime | None
) -> datetime | None:
    """Until when a pod may wait: as the job says, else only for what is `missing`, `since` then, as the administrator
    says."""
    asked = context.job.spec.startup_deadline_seconds
    if asked is not None:
        return begun + timedelta(seconds=asked)
    return (since or begun) + timedelta(seconds=context.settings.startup_deadline) if missing else None


def not_started_in_time(context: Context, why: str) -> str:
    """The message on a pod that has waited for too long, with what it waited for."""
    asked = context.job.spec.startup_deadline_seconds
    whose = "the administrator's limit" if asked is None else "spec.startupDeadlineSeconds"
    limit = context.settings.startup_deadline if asked is None else asked
    return f"{why} (not running after {limit} s, {whose})"[:MESSAGE_LENGTH]


def pause_before_retry(context: Context, retries: int) -> timedelta:
    """The delay doubles with every counted retry, up to five minutes."""
    return timedelta(seconds=backoff(retries, context.settings.retry_backoff, LONGEST_PAUSE.total_seconds()))


def pause_before_free_retry(context: Context) -> timedelta | None:
    """None after the first; attempts that are interrupted one after the other are retried after growing delays."""
    short = list(takewhile(_cut_short, reversed(context.status.attempts)))
    return pause_before_retry(context, len(short) - 1) if len(short) > 1 else None


def _cut_short(attempt: AttemptStatus) -> bool:
    free = attempt.counted is False and attempt.reason != Reason.SUSPENDED
    return free and (
        attempt.end_time is None or seconds_between(attempt.start_time, attempt.end_time) < _SOON
    )


def end_of_children(context: Context, finish: datetime) -> datetime | None:
    """When a finished job's Jobs and pods are deleted."""
    seconds = context.job.spec.ttl_seconds_after_finished
    return None if seconds is None else finish + timedelta(seconds=seconds)


def earliest(*times: datetime | None) -> datetime | None:
    """The first of the times that are set."""
    return min((time for time in times if time), default=None)
