"""The token bucket before the API server, and the Events that people read."""

import asyncio
from dataclasses import dataclass

import pytest

from builders import job, stored
from finetune_operator.cluster import RateLimiter
from finetune_operator.events import transitions
from unit.operator.worlds import REPORT, T0, Life, over, parsed, pod, running_pod, seen
from unit.operator.worlds import child as a_child


@dataclass
class Clock:
    now: float = 0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    return clock


async def test_a_burst_is_free_and_then_the_rate_holds(clock: Clock) -> None:
    limiter = RateLimiter(rate=10, burst=5, clock=clock)
    for _ in range(5):
        await limiter()
    assert clock.now == 0
    for _ in range(20):
        await limiter()
    assert clock.now == pytest.approx(2.0)


async def test_rest_fills_the_bucket_up_to_the_burst(clock: Clock) -> None:
    limiter = RateLimiter(rate=10, burst=5, clock=clock)
    clock.now = 1000
    for _ in range(6):
        await limiter()
    assert clock.now == pytest.approx(1000.1)


async def test_requests_that_are_cancelled_while_they_wait_hold_up_no_other() -> None:
    limiter = RateLimiter(rate=100, burst=1, clock=lambda: 0)
    await limiter()
    for _ in range(3000):
        waiting = asyncio.create_task(limiter())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
    async with asyncio.timeout(60):
        await limiter()


def told(life: Life, *steps: tuple[float, object]) -> list[str]:
    body, found = stored(job()), []
    for at, observation in steps:
        before = life.status
        life.reconcile(observation, at=at)  # type: ignore[arg-type]
        found += [f"{event.type} {event.reason}" for event in transitions(body, before, life.status, T0)]
    return found


def test_transitions_are_told_and_progress_is_not() -> None:
    life = Life(parsed(retry={"limit": 1}))
    assert told(
        life,
        (0, seen()),
        (5, seen(a_child(), pod(unschedulable="no"))),
        (20, seen(a_child(), pod(unschedulable="still not"))),
        (30, seen(a_child(), running_pod())),
        (40, seen(a_child(), running_pod())),
        (60, over(70)),
        (70, seen()),
        (80, seen(a_child(2), running_pod(2))),
        (90, over(0, 2, report=REPORT)),
        (99, seen()),
    ) == [
        "Normal Accepted",
        "Warning Unschedulable",
        "Normal Running",
        "Warning WaitingToRetry",
        "Normal Accepted",
        "Normal Running",
        "Normal Succeeded",
    ]
