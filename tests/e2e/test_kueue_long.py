"""Kueue preempts pods in which the trainer runs (`make test-signals`).

`tests/kueue` has what else Kueue does, with pods that are played.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.jobs import Body, Jobs, condition, tiny
from e2e.test_several_nodes import weights_of
from finetune_cluster.choice import chosen_cluster
from finetune_cluster.components import ADMIN, API_URL
from finetune_cluster.credentials import Credentials
from finetune_cluster.node import NodeCluster
from finetune_cluster.sandbox import HOST_ADDRESS
from finetune_demo.platform import Platform
from integration.operator_rig import Access, Rest, World, until
from kueue.rig import CLASSES, Kueue, boost, make_queue

QUEUE = "one-at-a-time"
CPU = {"cpu": "500m"}
_LONG = 1200
"""Steps that take half a minute."""


@pytest.fixture(scope="module")
def world(platform: Platform, jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The namespace, in which a queue of Kueue has room for one pod."""
    cluster = chosen_cluster()
    if not isinstance(cluster, NodeCluster):
        pytest.skip("Kueue runs on this machine, and only the embedded cluster's API server reaches it there")
    made = Credentials(cluster.state / "pki")
    world = World(Rest(Access(API_URL, made.token(ADMIN), made.ca)), jobs.namespace)
    platform.install_operator("defaults.output.size=1Gi", "kueue.priorityBoost=20")
    with Kueue(platform.kubeconfig, world.rest, tmp_path_factory.mktemp("kueue"), HOST_ADDRESS) as kueue:
        for name, value in (("low", 100), ("high", 1000)):
            world.rest("POST", CLASSES, {"metadata": {"name": name}, "value": value})
        make_queue(world, QUEUE, CPU, preemption={"withinClusterQueue": "LowerPriority"})
        yield world
        for name in ("low", "high"):
            world.rest("DELETE", f"{CLASSES}/{name}")
        kueue.uninstall()


def queued(steps: int, priority: str) -> Body:
    return alone(steps) | {"scheduling": {"queue": QUEUE, "priorityClassName": priority}}


def alone(steps: int) -> Body:
    """No failure is retried: what Kueue does must not be one."""
    return tiny(steps, resources={"gpusPerNode": 0, "requests": CPU}, retry={"limit": 0})


def says_why(message: str) -> bool:
    """Kueue first says that it preempts, and then, as of any other that waits, what the queue lacks."""
    answers = ("Preempted to accommodate a workload", "insufficient unused quota for cpu")
    return message.startswith(f"evicted, and waits in queue {QUEUE}: ") and any(
        one in message for one in answers
    )


def test_a_preempted_trainer_saves_and_resumes_there_to_the_bytes_of_an_undisturbed_run(
    world: World, jobs: Jobs, tmp_path: Path
) -> None:
    jobs.apply("preempted", queued(_LONG, "low"))
    jobs.wait_step("preempted", 20)
    jobs.apply("urgent", queued(60, "high"))
    waiting = jobs.wait("preempted", "evicted", lambda one: "evictions" in one["attempts"][0])
    saved = waiting["latestCheckpoint"]["step"]
    (attempt,) = waiting["attempts"]
    assert (attempt["toStep"], attempt["evictions"]) == (saved, 1), "it saved its last step"
    assert (waiting["phase"], condition(waiting, "Running")["reason"]) == ("Pending", "Queued")
    jobs.wait("preempted", "with the reason", lambda one: says_why(condition(one, "Running")["message"]))

    assert len(jobs.wait_phase("urgent", "Succeeded")["attempts"]) == 1
    status = jobs.wait_phase("preempted", "Succeeded")
    (attempt,) = status["attempts"]
    assert (attempt["fromStep"], attempt["toStep"], attempt["evictions"]) == (saved, _LONG, 1)
    assert "retries" not in status
    usage = status["usage"]
    assert usage["gpuSeconds"] > attempt["gpuSeconds"] > 0, "of both times that it ran"
    assert usage["queuedSeconds"] > 0

    jobs.apply("undisturbed", alone(_LONG))
    undisturbed = jobs.wait_phase("undisturbed", "Succeeded")
    found = [weights_of(jobs, one, tmp_path / str(n)) for n, one in enumerate((status, undisturbed))]
    assert found[0] == found[1]
    events = [event["reason"] for event in world.events("preempted")]
    assert [one for one in events if one in ("Queued", "Running")][-3:] == ["Running", "Queued", "Running"]


def test_the_priority_of_a_trainer_rises_until_it_saves(world: World, jobs: Jobs) -> None:
    spec = queued(100 * _LONG, "low")
    spec["training"]["checkpoint"]["every"] = {"minutes": 2}
    jobs.apply("boosted", spec)
    jobs.wait_phase("boosted", "Running")
    until(lambda: int(boost(world, "boosted") or 0) > 0, "a minute would be lost", seconds=120)
    jobs.wait_step("boosted", 1)
    until(lambda: boost(world, "boosted") == "0", "a checkpoint lowers it")
    jobs.platform.kubectl("delete", "ftj", "boosted", "-n", jobs.namespace, "--wait=false")
