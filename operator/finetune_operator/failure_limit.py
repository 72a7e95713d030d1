"""How many connections of each address may still fail: a token bucket for each, so that a flood is refused before its
TLS handshakes, which cost more than all the rest. A connection takes a token, and a served report gives it back.
"""

import time
from collections.abc import Callable

from cachetools import LRUCache

_REMEMBERED = 20_000
"""Addresses, as many as pods. The one that was idle for longest is forgotten first."""


class FailureLimit:
    """`burst` connections at once, `rate` further ones a second."""

    def __init__(self, burst: int, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._rate, self._clock = float(burst), rate, clock
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(_REMEMBERED)
        """Tokens that are left, and when that was counted."""

    def take(self, address: str) -> bool:
        """Whether it may open another connection."""
        left = self._left(address)
        if left < 1:
            return False
        self._buckets[address] = (left - 1, self._clock())
        return True

    def give_back(self, address: str) -> None:
        """Its last connection did not fail."""
        self._buckets[address] = (min(self._burst, self._left(address) + 1), self._clock())

    def _left(self, address: str) -> float:
        left, since = self._buckets.get(address, (self._burst, self._clock()))
        return min(self._burst, left + (self._clock() - since) * self._rate)
