"""When a start that nothing is known to hinder is worth a write: few writes, same news. Pure."""

from datetime import datetime, timedelta

from finetune_api.status import Reason
from finetune_core.decide.conditions import running_of
from finetune_core.decide.context import Context
from finetune_core.decide.observation import PodView
from finetune_core.decide.pending import Pending

USUAL_START = timedelta(seconds=3)
"""After this long something may hinder a pod that has not started: it is looked for."""
_STEP, _WHOLE = timedelta(seconds=30), timedelta(seconds=90)
_NEXT_STEP, _LONG = timedelta(seconds=90), timedelta(minutes=5)
_BEGINNING = (Reason.ACCEPTED, Reason.PREFLIGHT, Reason.STARTING)


def slow_from(context: Context, pods: tuple[PodView, ...], begun: datetime, pending: Pending) -> datetime:
    """When a start that began at `begun` is worth a write.

    Where the status still names what hindered it, that is at once; else, when a step of it takes half a minute, or all
    of it 90 s. Once the status says that it starts, what follows is on its usual way: the message is renewed when the
    next step takes 90 s, or all of it five minutes, unless it can say what may hinder it.
    """
    running = running_of(context.status.conditions)
    if running is not None and running.reason not in _BEGINNING:
        return begun + USUAL_START
    said = running is not None and running.reason == Reason.STARTING
    step, whole = (_NEXT_STEP, _LONG) if said and not pending.hinted else (_STEP, _WHOLE)
    return min(_last_step(pods, begun) + step, begun + whole)


def next_look(
    context: Context, pods: tuple[PodView, ...], begun: datetime, slow: datetime
) -> datetime | None:
    """When to see what hinders a start that is slow from a time on: much of that is no event of the pod or its Job."""
    looks = (begun + USUAL_START, _last_step(pods, begun) + _STEP, slow)
    return min((look for look in looks if look > context.now), default=None)


def _last_step(pods: tuple[PodView, ...], begun: datetime) -> datetime:
    alive = [pod for pod in pods if not pod.finished]
    return max([begun, *(time for pod in alive for time in (pod.created, pod.scheduled) if time)])
