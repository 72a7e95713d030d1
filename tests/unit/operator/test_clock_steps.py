"""The operator's clock is set forward or back by an hour while jobs run: nothing is negative, nothing happens twice."""

from typing import Any

import pytest

from builders import job
from finetune_core.wire import time_of
from finetune_operator.clock import SteadyClock
from finetune_operator.handlers import update
from unit.operator.model_cluster import Body, ModelCluster
from unit.operator.test_reconcile_histories import SETTINGS, Operator, report_of

HOUR = 3600.0


class World:
    """One job and an operator whose clock can be set."""

    def __init__(self, **spec: Any) -> None:
        self.cluster = ModelCluster()
        self.operator = Operator(self.cluster, SETTINGS)
        self.cluster.put("FineTuneJob", job("one", resources={"gpusPerNode": 1}, **spec))

    async def live(self, rounds: int = 4, seconds: float = 5) -> None:
        for _ in range(rounds):
            for kind, waiting in self.cluster.watch.waiting.items():
                events, waiting[:] = list(waiting), []
                for event, body in events:
                    for key in update(self.operator.cache, kind, event, body):
                        self.operator.add(key)
            await self.operator.visit()
            self.cluster.controllers()
            self.cluster.start_pods()
            self.cluster.now += seconds
        self.cluster.history.check()

    def end(self, code: int) -> None:
        for pod in self.cluster.of("Pod"):
            if pod["status"]["phase"] == "Running":
                self.cluster.end_pod(pod, code, report_of(pod, code))

    async def steps(self, by: float, *, restart: bool) -> None:
        """The machine's clock is set; perhaps the operator starts again, which then knows only the new time."""
        if restart:
            self.operator = Operator(self.cluster, SETTINGS, skew=by)
            await self.operator.resync.once()
        self.operator.skew = by

    @property
    def status(self) -> Body:
        found: Body = self.cluster.objects["FineTuneJob", "one"]["status"]
        return found


def negative(value: Any, place: str = "") -> list[str]:
    """Places of numbers below zero."""
    if isinstance(value, dict):
        return [found for key, one in value.items() for found in negative(one, f"{place}.{key}")]
    if isinstance(value, list):
        return [found for number, one in enumerate(value) for found in negative(one, f"{place}[{number}]")]
    return [f"{place}: {value}"] if isinstance(value, (int, float)) and value < 0 else []


STEPS = pytest.mark.parametrize("step", [HOUR, -HOUR])
RESTARTS = pytest.mark.parametrize("restart", [False, True])


@STEPS
@RESTARTS
@pytest.mark.parametrize("rounds", [1, 2, 4], ids=["before it runs", "as it starts", "while it runs"])
async def test_a_step_of_the_clock_makes_nothing_negative_and_starts_nothing_twice(
    step: float, restart: bool, rounds: int
) -> None:
    world = World()
    await world.live(rounds)
    await world.steps(step, restart=restart)
    await world.live()
    assert world.status["phase"] == "Running"
    world.end(0)
    await world.live()
    assert world.status["phase"] == "Succeeded"
    assert not negative(world.status)
    for attempt in world.status["attempts"]:
        times = [str(time_of(attempt[name])) for name in ("startTime", "runningTime", "endTime")]
        assert times == sorted(times), attempt


@STEPS
async def test_a_step_of_the_clock_is_no_time_that_a_deadline_counts(step: float) -> None:
    world = World(activeDeadlineSeconds=1800)
    await world.live()
    await world.steps(step, restart=False)
    await world.live(15, seconds=60)
    assert world.status["phase"] == "Running"
    await world.live(25, seconds=60)
    assert world.status["phase"] == "Failed"
    assert "activeDeadlineSeconds" in str(world.status["conditions"])


@RESTARTS
async def test_after_a_step_back_a_retry_does_not_wait_for_the_hour(restart: bool) -> None:
    """Its time was written by the clock as it was before."""
    world = World()
    await world.live()
    world.end(70)
    await world.live(2, seconds=1)
    await world.steps(-HOUR, restart=restart)
    await world.live(60, seconds=10)
    assert (world.status["attempt"], world.status["phase"]) == (2, "Running")


def test_the_clock_follows_a_step_slowly_and_the_usual_drift_at_once() -> None:
    wall, elapsed = [1000.0], [50.0]
    clock = SteadyClock(lambda: wall[0], lambda: elapsed[0])
    wall[0], elapsed[0] = wall[0] + 100.4, elapsed[0] + 100
    assert clock().timestamp() == 1100
    wall[0], elapsed[0] = wall[0] + 3700, elapsed[0] + 100
    assert clock().timestamp() == 1205
    wall[0], elapsed[0] = wall[0] + 100_000, elapsed[0] + 100_000
    assert clock().timestamp() == int(wall[0])
