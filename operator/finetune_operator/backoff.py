"""The pauses between tries, for everything that is tried again."""

import random


def backoff(tries: int, first: float, longest: float) -> float:
    """Seconds to wait after this many tries: `first`, then twice as long each time, at most `longest`."""
    doublings = min(max(0, tries - 1), 60)  # more would be larger than any float
    return min(first * 2.0**doublings, longest)


def jitter(seconds: float) -> float:
    """Up to a fifth more or less, so that what failed together is not tried again together."""
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311
