"""What tests that run the trainer in their own process need of its signals. Used by the conftests."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def signals_stay() -> Iterator[None]:
    """The trainer takes SIGTERM and Ctrl-C for itself."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])
