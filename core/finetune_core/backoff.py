"""Backoff: the delays between retries."""

import random


def backoff(tries: int, first: float, longest: float) -> float:
    """Seconds to wait after this many failures: `first`, then doubled each time, at most `longest`."""
    doublings = min(max(0, tries - 1), 60)  # more would be larger than any float
    return min(first * 2.0**doublings, longest)


def jitter(seconds: float) -> float:
    """Jitter of up to a fifth, so that what failed together is not retried together."""
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311
