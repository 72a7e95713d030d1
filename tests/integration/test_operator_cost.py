"""What a job costs the API server: the writes of a whole life, and no request once it has ended."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_cluster.apiserver import ApiServer
from integration.fault_proxy import FaultProxy
from integration.operator_rig import JOBS, MERGE, Operator, Rest, World, make_namespace, until

NAMESPACE = "cost"


@pytest.fixture(scope="module")
def world(rest: Rest) -> World:
    return make_namespace(rest, NAMESPACE)


@pytest.fixture
def proxy(cluster: ApiServer, tmp_path: Path) -> Iterator[FaultProxy]:
    started = FaultProxy(cluster, tmp_path)
    yield started
    started.stop()


@pytest.fixture
def operator(proxy: FaultProxy, tmp_path: Path) -> Iterator[Operator]:
    started = Operator(proxy.kubeconfig, tmp_path, {"namespaces": [NAMESPACE]}).start().ready()
    yield started
    started.kill()


def live(world: World) -> str:
    """A whole life of a job that names its output."""
    name = world.apply(output={"uri": "pvc://demo/results"})
    pod = world.run(name)
    world.until_phase(name, "Running")
    world.succeed(pod)
    world.until_phase(name, "Succeeded")
    until(lambda: len(world.events(name)) == 3, "all Events are posted")
    return name


def visits(operator: Operator) -> float:
    """Reconciles that have begun."""
    lines = operator.metrics().splitlines()
    return float(next(line for line in lines if "queue_latency_seconds_count" in line).rpartition(" ")[2])


def test_a_life_is_three_statuses_one_object_and_an_event_for_each_status(
    world: World, operator: Operator, proxy: FaultProxy
) -> None:
    proxy.disarm()
    live(world)
    wanted = {"PUT status": 3, "POST jobs": 1, "POST events": 3}
    assert Counter(_short(write) for write in proxy.writes) == wanted, proxy.writes


def _short(write: str) -> str:
    verb, _, path = write.partition(" ")
    return f"{verb} {path.rpartition('/')[2]}"


def test_a_job_that_has_ended_is_visited_without_a_request(world: World, operator: Operator) -> None:
    name = live(world)
    until(lambda: "completionTime" in world.children(name)[0]["status"], "its Job is complete")
    before, seen = operator.requests(), visits(operator)
    for number in range(5):
        note = {"metadata": {"annotations": {"note": str(number)}}}
        world.rest("PATCH", world.at(JOBS, name), note, MERGE)
    until(lambda: visits(operator) > seen, "it was visited")
    assert operator.requests() == before
    assert operator.alive
