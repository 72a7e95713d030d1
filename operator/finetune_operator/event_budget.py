"""How many Events a job may have, so that one which flaps costs the API server little. Pure but for its clock.

A token bucket of each job, as client-go has of each object, allows 25 at once, and ten an hour after these. What is
over it is not lost: it waits for a token, and newer ones of the same reason join it.
"""

import time
from collections.abc import Callable

from finetune_operator.events import Event

BURST, REFILL = 25, 360.0
"""Events of a job at once; then seconds for each."""


class EventBudget:
    """The token buckets of jobs, and the Events that wait for a token: the newest of each job and reason."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full: dict[str, float] = {}
        """When the bucket of a job is full again."""
        self._held: dict[str, dict[str, Event]] = {}
        """By job and reason, the reason that has waited longest first."""

    def admits(self, event: Event) -> bool:
        """Whether the Event may be posted now; else it is held."""
        held = self._held.get(event.uid)
        if held is None and self._take(event.uid):
            return True
        held = self._held.setdefault(event.uid, {})
        earlier = held.get(event.reason)
        held[event.reason] = event.joined_to(earlier) if earlier else event
        return False

    def due(self) -> list[Event]:
        """Of each job that has a token again, the Event that has waited longest."""
        now = self._clock()
        self._full = {uid: full for uid, full in self._full.items() if full > now}
        return [self._next(uid) for uid in list(self._held) if self._take(uid)]

    def rest(self) -> list[Event]:
        """All that are held."""
        held, self._held = self._held, {}
        return [event for by_reason in held.values() for event in by_reason.values()]

    def _next(self, uid: str) -> Event:
        held = self._held[uid]
        event = held.pop(next(iter(held)))
        if not held:
            del self._held[uid]
        return event

    def _take(self, uid: str) -> bool:
        """Take a token of a job, if there is one."""
        now = self._clock()
        full = max(self._full.get(uid, now), now)
        if full - now > (BURST - 1) * REFILL:
            return False
        self._full[uid] = full + REFILL
        return True
