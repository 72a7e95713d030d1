"""Jobs that wait in a queue: the test plays Kueue on a real API server with the Job controller.

`make test-kueue` runs Kueue itself.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from finetune_cluster.apiserver import ApiServer
from finetune_operator.kueue import workload_names
from integration.operator_rig import (
    CHILDREN,
    CRDS,
    JOBS,
    MERGE,
    Operator,
    Rest,
    World,
    serving,
    until,
)

Json = dict[str, Any]

WORKLOADS = "/apis/kueue.x-k8s.io/v1beta2/namespaces/{}/workloads"
TEMPLATES = "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaimtemplates"
QUEUE = {"queue": "team-a"}
NO_QUOTA = "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor default, 1 more needed"


@pytest.fixture(scope="module")
def operator(cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with serving(cluster, tmp_path_factory.mktemp("operator"), "queue") as started:
        yield started


@pytest.fixture
def world(operator: Operator, rest: Rest) -> World:
    return World(rest, "queue")


@pytest.fixture(scope="module")
def workloads(rest: Rest) -> None:
    """The definition of Workloads, with any content."""
    names = {"plural": "workloads", "singular": "workload", "kind": "Workload", "listKind": "WorkloadList"}
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1beta2", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
    spec = {"group": "kueue.x-k8s.io", "scope": "Namespaced", "names": names, "versions": [version]}
    protected = {"api-approved.kubernetes.io": "unapproved, for tests"}
    metadata = {"name": "workloads.kueue.x-k8s.io", "annotations": protected}
    rest("POST", CRDS, {"metadata": metadata, "spec": spec})
    until(lambda: rest.get(WORKLOADS.format("queue")), "Workloads are served")


def child_of(world: World, name: str) -> Json:
    return until(lambda: (world.children(name) or [{}])[0], f"{name} has a Job")


def say(world: World, child: Json, *conditions: Json) -> None:
    """Write the Workload of a Job, as Kueue does."""
    meta = child["metadata"]
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
    }
    name = workload_names(meta["name"], meta["uid"])[0]
    body = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Workload",
        "metadata": {"name": name, "ownerReferences": [owner]},
        "spec": {"active": True},
        "status": {"conditions": list(conditions)},
    }
    if world.rest.get(world.at(WORKLOADS, name)):
        world.rest("PATCH", world.at(WORKLOADS, name), {"status": body["status"]}, MERGE)
    else:
        world.rest("POST", world.at(WORKLOADS), body)


def suspend(world: World, child: Json, *, suspended: bool) -> None:
    """Admit or evict, as Kueue does."""
    spec = {"spec": {"suspend": suspended}}
    world.rest("PATCH", world.at(CHILDREN, child["metadata"]["name"]), spec, MERGE)


def condition(kind: str, status: str, message: str) -> Json:
    return {"type": kind, "status": status, "reason": "Pending", "message": message}


def test_without_kueue_nothing_runs_and_the_status_says_so(world: World) -> None:
    name = world.apply(scheduling=QUEUE)
    found = world.until_reason(name, "MissingObject")
    assert "waits in queue team-a: no Kueue is installed in this cluster" in found["message"]
    child = child_of(world, name)
    assert child["spec"]["suspend"] is True
    assert child["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert "kueue.x-k8s.io/queue-name" not in world.job(name)["metadata"].get("labels", {})
    assert not world.pods(name)
    world.change(name, suspend=True)
    world.until_phase(name, "Suspended")
    world.change(name, suspend=False, scheduling=None)
    world.succeed(world.run(name, attempt=2))
    world.until_phase(name, "Succeeded")


@pytest.mark.usefixtures("workloads")
def test_a_queued_job_is_admitted_evicted_and_resumed_in_one_attempt(world: World) -> None:
    name = world.apply(scheduling=QUEUE)
    child = child_of(world, name)
    say(world, child, condition("QuotaReserved", "False", NO_QUOTA))
    until(
        lambda: NO_QUOTA in world.condition(name, "Running").get("message", ""), "Kueue's sentence is quoted"
    )
    suspend(world, child, suspended=False)
    first = world.run(name)
    world.until_phase(name, "Running")
    say(world, child, condition("Evicted", "True", "Preempted by a job of higher priority"))
    suspend(world, child, suspended=True)
    world.obey(first)
    found = world.until_reason(name, "Queued")
    assert "evicted, and waits in queue team-a: Preempted by a job of higher priority" in found["message"]
    suspend(world, child, suspended=False)
    second = until(lambda: _other_pod(world, name, first), "there is another pod")
    world.bind(second)
    world.start_container(second)
    world.until_phase(name, "Running")
    world.succeed(second)
    status = world.until_phase(name, "Succeeded")
    assert (status["attempt"], status.get("retries")) == (1, None)
    assert status["attempts"][0]["evictions"] == 1


def _other_pod(world: World, name: str, first: str) -> str | None:
    found = [pod["metadata"]["name"] for pod in world.pods(name)]
    return next((pod for pod in found if pod != first), None)


def test_claimed_devices_are_counted_from_their_template(world: World) -> None:
    claims = [{"name": "gpus", "resourceClaimTemplateName": "two-gpus"}]
    name = world.apply(resources={"claims": claims})
    found = world.until_reason(name, "MissingObject")
    assert "ResourceClaimTemplate two-gpus does not exist in namespace queue" in found["message"]
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com", "count": 2}}
    template = {"metadata": {"name": "two-gpus"}, "spec": {"spec": {"devices": {"requests": [request]}}}}
    world.rest("POST", world.at(TEMPLATES), template)
    pod = world.get_pod(world.pod(name))
    assert pod
    assert pod["spec"]["resourceClaims"] == claims
    assert pod["spec"]["containers"][0]["resources"] == {"claims": [{"name": "gpus"}]}
    config = world.files(name)[0]["run.json"]
    assert '"gpus": 2' in config
    assert world.status(name)["display"]["gpus"] == "1×2"


def test_gpus_that_a_job_on_the_cpu_would_hold_keep_it_and_a_search_from_beginning(world: World) -> None:
    exactly = {"deviceClassName": "gpu.example.com"}
    request = {"name": "gpu", "exactly": exactly}
    template = {"metadata": {"name": "one-gpu"}, "spec": {"spec": {"devices": {"requests": [request]}}}}
    world.rest("POST", world.at(TEMPLATES), template)
    on_cpu = {"gpusPerNode": 0, "claims": [{"name": "gpus", "resourceClaimTemplateName": "one-gpu"}]}
    search = {"parameters": [{"path": "training.seed", "choice": [1, 2]}]}
    names = [world.apply(resources=on_cpu), world.apply(resources=on_cpu, search=search)]
    for name in names:
        message = world.until_reason(name, "InvalidSpec")["message"]
        assert "ResourceClaimTemplate one-gpu: it asks for devices of class gpu.example.com" in message
        assert world.condition(name, "Stalled")["status"] == "True"
        assert world.children(name) == []
    world.rest("DELETE", f"{world.at(TEMPLATES)}/one-gpu")
    exactly["deviceClassName"] = "nic.example.com"
    world.rest("POST", world.at(TEMPLATES), template)
    alone, searching = names
    assert world.pod(alone)
    of = f"finetune.dev/parent-uid={world.job(searching)['metadata']['uid']}"
    until(lambda: world.rest.items(world.at(JOBS), of), "the search has a trial", 30)
