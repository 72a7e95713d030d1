"""When a start that nothing is known to hinder is worth a write: few writes, same news. Pure."""

from datetime import datetime, timedelta

from finetune_api.status import Reason
from finetune_core.decide.conditions import running_of
from finetune_core.decide.context import Context
from finetune_core.decide.observation import PodView
from finetune_core.decide.pending import Pending

USUAL_START = timedelta(seconds=3)
"""After this long something may hinder a pod that has not started: it is looked for."""
_USUAL_STEP = timedelta(seconds=30)
"""The same for each step of a start: much of what hinders it is no event of the pod or its Job."""
_SLOW, _LONG = timedelta(seconds=90), timedelta(minutes=5)
_BEGINNING = (Reason.ACCEPTED, Reason.PREFLIGHT, Reason.STARTING)


def slow_from(context: Context, pods: tuple[PodView, ...], begun: datetime, pending: Pending) -> datetime:
    """When a start that began at `begun` is worth a write.

    Where the status still names what hindered it, or can say what may, that is as soon as that is looked for; else,
    after 90 s. Once the status says that it starts, what follows is on its usual way: the message is renewed when the
    next step takes 90 s, or all of it five minutes.
    """
    running, last = running_of(context.status.conditions), _last_step(pods, begun)
    if running is not None and running.reason not in _BEGINNING:
        return begun + USUAL_START
    if pending.hinted:
        return min(last + _USUAL_STEP, begun + _SLOW)
    if running is None or running.reason != Reason.STARTING:
        return begun + _SLOW
    return min(last + _SLOW, begun + _LONG)


def next_look(
    context: Context, pods: tuple[PodView, ...], begun: datetime, slow: datetime
) -> datetime | None:
    """When to see what hinders a start that is worth a write from `slow` on."""
    looks = (begun + USUAL_START, _last_step(pods, begun) + _USUAL_STEP, slow)
    return min((look for look in looks if look > context.now), default=None)


def _last_step(pods: tuple[PodView, ...], begun: datetime) -> datetime:
    alive = [pod for pod in pods if not pod.finished]
    return max([begun, *(time for pod in alive for time in (pod.created, pod.scheduled) if time)])
