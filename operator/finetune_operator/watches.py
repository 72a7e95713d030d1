"""How old what the operator knows of each kind may be."""

import time
from collections.abc import Callable

KINDS = ("FineTuneJob", "Job", "Pod")


class Watches:
    """The last watch event of each kind. What is listed and compared is as new as an event."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._started = clock, clock()
        self._events: dict[str, float] = {}

    def event(self, kind: str) -> None:
        """An event of this kind has arrived."""
        self._events[kind] = self._clock()

    def ages(self, compared: float | None) -> dict[str, float]:
        """Seconds by kind; `compared` is when everything was last listed, on the same clock."""
        known = self._started if compared is None else compared
        return {kind: self._clock() - max(known, self._events.get(kind, known)) for kind in KINDS}
