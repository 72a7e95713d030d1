"""Objects that this operator cannot read, written around the schema as another version or client might."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.crd import crd
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import (
    JOBS,
    MERGE,
    Operator,
    Refused,
    Rest,
    World,
    install_crd,
    make_namespace,
    running,
    shared_server,
    until,
)

Json = dict[str, Any]


def permissive() -> Json:
    """Our definition without a schema."""
    definition = copy.deepcopy(crd())
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    for version in definition["spec"]["versions"]:
        version["schema"] = {"openAPIV3Schema": anything}
        version.pop("selectableFields", None)
    return definition


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    server = shared_server()
    rest = Rest(server)
    install_crd(rest, permissive())
    world = make_namespace(rest, "contract")
    probe = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "probe"}}

    def accepts_anything() -> bool:
        try:
            rest("POST", world.at(JOBS) + "?dryRun=All", probe | {"spec": {"hologram": 1}})
        except Refused:
            return False
        return True

    until(accepts_anything, "the permissive definition is in force")
    yield server
    rest("DELETE", world.at(JOBS))
    until(lambda: not rest.items(world.at(JOBS)), "the jobs are gone")
    install_crd(rest)


@pytest.fixture(scope="module")
def operator(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    with running(server.kubeconfig, folder, namespaces=["contract"]) as started:
        yield started
        assert started.alive, started.log()
        assert "Traceback" not in started.log(), started.log()


@pytest.fixture
def world(operator: Operator, server: ApiServer) -> World:
    return World(Rest(server), "contract")


def test_a_spec_that_cannot_be_understood_is_stalled_with_its_place_and_recovers(world: World) -> None:
    name = world.apply(training={"epochs": "many", "hologram": True})
    message = world.until_reason(name, "InvalidSpec")["message"]
    assert message.startswith("spec.training.")
    assert "and 1 more" in message
    assert world.condition(name, "Stalled")["status"] == "True"
    assert world.status(name)["phase"] == "Pending"
    assert world.children(name) == []

    world.change(name, training={"epochs": 1, "hologram": None})
    world.succeed(world.run(name))
    world.until_phase(name, "Succeeded")


def test_a_running_job_whose_spec_became_unreadable_is_let_alone(world: World) -> None:
    name = world.apply()
    pod = world.run(name)
    world.until_phase(name, "Running")
    world.change(name, hologram=True)
    world.until_reason(name, "InvalidSpec")
    assert "deletionTimestamp" not in (world.get_pod(pod) or {})["metadata"]
    world.succeed(pod)
    world.change(name, hologram=None)
    world.until_phase(name, "Succeeded")


def test_a_finished_job_whose_spec_became_unreadable_stays_as_it_ended(world: World) -> None:
    name = world.apply()
    world.succeed(world.run(name))
    status = world.until_phase(name, "Succeeded")
    world.change(name, hologram=True)
    other = world.apply(hologram=True)
    world.until_reason(other, "InvalidSpec")  # by then the first was looked at as well
    assert world.status(name) == status


@pytest.mark.parametrize(
    "status",
    [
        {"hologram": {"a": [1]}},
        {"conditions": "none"},
        {"conditions": [{"type": "Hologram", "status": "Maybe"}, 5, None]},
        {"progress": "half", "epochs": {"a": 1}, "display": [], "effective": "all"},
        {"phase": "Dreaming", "observedGeneration": "x"},
        {"attempts": [{"number": 1, "hologram": True}]},
        "text",
        [1, 2],
    ],
    ids=[
        "unknown field",
        "text for a list",
        "items",
        "kinds",
        "enum",
        "attempt of a newer version",
        "text",
        "list",
    ],
)
def test_an_unreadable_status_neither_ends_the_process_nor_trains_twice(
    world: World, operator: Operator, status: Any
) -> None:
    name = world.apply()
    pod = world.run(name)
    world.until_phase(name, "Running")
    patch = {"status": status}
    world.rest("PATCH", world.at(JOBS, name) + "/status", patch, MERGE)
    other = world.apply(suspend=True)
    world.until_phase(other, "Suspended")
    world.until_phase(name, "Running")
    assert len(world.children(name)) == 1
    world.succeed(pod)
    assert world.until_phase(name, "Succeeded")["attempt"] == 1
    assert "finetune_jobs{" in operator.metrics()


def test_a_stranger_s_words_on_children_do_not_matter(world: World, operator: Operator) -> None:
    name = world.apply()
    pod = world.run(name)
    world.until_phase(name, "Running")
    child = world.children(name)[0]["metadata"]["name"]
    odd = {"metadata": {"labels": {"finetune.dev/attempt": "ninety"}, "annotations": {"x": "\u0000" * 10}}}
    for path in ("/api/v1/namespaces/{}/pods", "/apis/batch/v1/namespaces/{}/jobs"):
        target = pod if "pods" in path else child
        world.rest("PATCH", world.at(path, target), odd, MERGE)
        fixed = {"metadata": {"labels": {"finetune.dev/attempt": "1"}}}
        world.rest("PATCH", world.at(path, target), fixed, MERGE)
    world.succeed(pod)
    status = world.until_phase(name, "Succeeded")
    assert operator.alive
    assert status["attempts"][-1]["reason"] == "Succeeded"


def test_the_log_names_what_could_not_be_read(world: World, operator: Operator, tmp_path: Path) -> None:
    name = world.apply()
    world.run(name)
    world.until_phase(name, "Running")
    world.write_status(name, {"hologram": 1})
    until(
        lambda: f"{name}: ignoring invalid parts of its status: hologram" in operator.log(), "the log says so"
    )
