"""docs/backup.md as a user follows it with kubectl: FineTuneJobs are saved, deleted and restored."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import (
    Operator,
    Refused,
    Rest,
    World,
    make_namespace,
    running,
    until,
)
from integration.pages import commands, shell

Json = dict[str, Any]

PAGE = "backup.md"
RELEASE = "backup-release"


@pytest.fixture(scope="module")
def rest(cluster: ApiServer) -> Rest:
    """With a Deployment in the operator's place, for the commands that scale it."""
    found = Rest(cluster)
    make_namespace(found, RELEASE, inputs=False)
    labels = {"app.kubernetes.io/name": "finetune-operator"}
    container = {"name": "operator", "image": "x"}
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    body = {"metadata": {"name": "finetune-operator"}, "spec": spec}
    found("POST", f"/apis/apps/v1/namespaces/{RELEASE}/deployments", body)
    return found


@pytest.fixture
def world(rest: Rest, request: pytest.FixtureRequest) -> World:
    """A namespace of the test's own."""
    return make_namespace(rest, f"backup-{abs(hash(request.node.name)) % 10**6}")


@pytest.fixture
def operator(cluster: ApiServer, world: World, tmp_path: Path) -> Iterator[Operator]:
    with running(cluster.kubeconfig, tmp_path, namespaces=[world.namespace], retry_backoff=0.1) as started:
        yield started


def follow(operator: Operator, world: World, with_text: str, **replaced: str) -> None:
    """Run a block of the page; where it scales the Deployment, the operator's process stops and starts too."""
    for command in commands(PAGE, with_text, **replaced):
        if "--replicas=0" in command:
            operator.kill()
        shell(command, operator.kubeconfig, operator.folder)
        if "--replicas=1" in command:
            operator.start().ready()


def delete_all(world: World, names: list[str]) -> None:
    """The jobs and their pods."""
    pods = [pod["metadata"]["name"] for name in names for pod in world.pods(name)]
    for name in names:
        world.delete(name)
    for pod in pods:
        with suppress(Refused):  # it is gone already
            world.remove(pod)
    until(lambda: not any(world.children(name) for name in names), "their children are gone")


def suspended_halfway(world: World) -> str:
    name = world.apply()
    pod = world.run(name)
    world.until_phase(name, "Running")
    world.change(name, suspend=True)
    world.obey(pod)
    world.until_phase(name, "Suspended")
    return name


def test_a_restore_with_status_trains_no_finished_job_again(operator: Operator, world: World) -> None:
    done, failed, runs = world.apply(), world.apply(retry={"limit": 0}), world.apply()
    world.succeed(world.run(done))
    world.end(world.run(failed), 65, "bad data")
    world.until_phase(done, "Succeeded")
    world.until_phase(failed, "Failed")
    world.change(done, ttlSecondsAfterFinished=10**6)  # the generation of the restored object is lower
    halfway = suspended_halfway(world)
    world.run(runs)
    world.until_phase(runs, "Running")
    names = [done, failed, halfway, runs]
    model = world.until_phase(done, "Succeeded")["model"]
    old = {name: world.job(name)["metadata"]["uid"] for name in names}

    follow(operator, world, "sed -E", team_a=world.namespace)
    operator.kill()
    delete_all(world, names)
    operator.start().ready()
    follow(operator, world, "replace --subresource=status", finetune_system=RELEASE)

    world.pod(runs, attempt=2)
    assert all(world.job(name)["metadata"]["uid"] != old[name] for name in names)
    assert world.status(done)["phase"] == "Succeeded"
    assert world.status(done)["model"] == model
    assert world.reason(failed) == "DataError"
    assert [len(world.children(name)) for name in names] == [0, 0, 0, 1]
    lost = world.status(runs)["attempts"][0]
    assert (lost["reason"], lost["counted"]) == ("PodLost", False)
    world.change(halfway, suspend=False)
    world.pod(halfway, attempt=2)
    for name in (runs, halfway):
        assert len(world.claims(name)) == 2, "the new job has a new claim"


def test_a_restore_without_status_trains_again(operator: Operator, world: World) -> None:
    name = world.apply()
    world.succeed(world.run(name))
    world.until_phase(name, "Succeeded")
    follow(operator, world, "sed -E", team_a=world.namespace)
    delete_all(world, [name])
    shell("kubectl apply -f finetunejobs.yaml", operator.kubeconfig, operator.folder)
    world.pod(name)
    assert world.status(name)["attempt"] == 1
    assert len(world.claims(name)) == 2


def test_the_command_that_suspends_all_jobs(operator: Operator, world: World) -> None:
    done, waits = world.apply(), world.apply()
    world.succeed(world.run(done))
    world.until_phase(done, "Succeeded")
    follow(operator, world, "xargs", team_a=world.namespace)
    world.until_phase(waits, "Suspended")
    assert world.status(done)["phase"] == "Succeeded"
