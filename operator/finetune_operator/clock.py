"""The operator's clock: UTC that passes as evenly as the machine's time since its boot.

A step of the wall clock, by NTP or a person, is no time that has passed: deadlines and pauses neither end at once nor
last an hour longer. The clock follows the new time slowly, as NTP does.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

_RATE = 0.05
"""How much faster or slower than time itself the clock may pass."""


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # counts sleep, unlike CLOCK_MONOTONIC


class SteadyClock:
    """Now, in the resolution of Kubernetes times."""

    def __init__(
        self, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = _since_boot
    ) -> None:
        self._wall, self._elapsed = wall, elapsed
        self._now, self._then = wall(), elapsed()

    def __call__(self) -> datetime:
        then = self._elapsed()
        passed, self._then = then - self._then, then
        behind = self._wall() - (self._now + passed)
        most = _RATE * passed
        self._now += passed + min(max(behind, -most), most)
        return datetime.fromtimestamp(self._now, UTC).replace(microsecond=0)
