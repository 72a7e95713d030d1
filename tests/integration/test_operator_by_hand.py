"""What people and their tools do by hand to a job that runs, and to what the operator has made for it."""

from collections.abc import Iterator

import pytest

from finetune_api.run import ExitCode
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import (
    CHILDREN,
    CLAIMS,
    JOBS,
    MERGE,
    PODS,
    Json,
    Operator,
    Rest,
    World,
    serving,
    until,
)
from integration.test_operator_search import RATES, search, trials, until_trials

NAMESPACE = "by-hand"
FINALIZER = "example.com/not-yet"


@pytest.fixture(scope="module")
def operator(cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with serving(cluster, tmp_path_factory.mktemp("operator"), NAMESPACE, retry_backoff=0.1) as started:
        yield started


@pytest.fixture
def world(operator: Operator, rest: Rest) -> World:
    return World(rest, NAMESPACE)


def hold(world: World, name: str, finalizers: list[str]) -> None:
    """Another tool's finalizers on a FineTuneJob."""
    world.rest("PATCH", world.at(JOBS, name), {"metadata": {"finalizers": finalizers}}, MERGE)


def is_gone(world: World, name: str) -> bool:
    return world.rest.get(world.at(JOBS, name)) is None


def test_a_deleted_job_that_a_finalizer_keeps_stops_and_no_attempt_follows(world: World) -> None:
    name = world.apply()
    hold(world, name, [FINALIZER])
    pod = world.run(name)
    world.until_phase(name, "Running")
    world.delete(name)
    world.obey(pod)
    until(lambda: not world.children(name), "its Job is gone")
    assert "deletionTimestamp" in world.job(name)["metadata"]
    world.change(name, ttlSecondsAfterFinished=1)  # another event of it
    assert world.children(name) == world.pods(name) == []
    hold(world, name, [])
    until(lambda: is_gone(world, name), "the job is gone")


def test_a_deleted_search_that_a_finalizer_keeps_stops_its_trials(world: World) -> None:
    name = search(world, "kept", {"parameters": [RATES], "maxTrials": 4, "parallelism": 2})
    hold(world, name, [FINALIZER])
    begun = until_trials(world, name, 2)
    pods = [world.run(trial) for trial in begun]
    world.delete(name)
    for pod in pods:
        world.obey(pod)
    for trial in begun:
        world.until_phase(trial, "Suspended")
    assert trials(world, name) == begun
    hold(world, name, [])
    until(lambda: all(is_gone(world, one) for one in (name, *begun)), "the search is gone with its trials")


def test_a_claim_of_the_operator_s_that_is_deleted_before_the_pod_has_it_is_made_again(world: World) -> None:
    name = world.apply()
    pod = world.pod(name)
    (before,) = world.claims(name)
    world.rest("DELETE", world.at(CLAIMS, before["metadata"]["name"]))

    def made_again() -> bool:
        return [one["metadata"]["uid"] for one in world.claims(name)] not in ([], [before["metadata"]["uid"]])

    until(made_again, "there is another claim of the same name")
    assert world.pod(name) == pod
    world.succeed(world.run(name))
    world.until_phase(name, "Succeeded")


def bound_claim(world: World, name: str) -> None:
    """A claim with a volume of the same name."""
    shared: Json = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    claim = shared | {"resources": {"requests": {"storage": "1Gi"}}, "volumeName": name}
    volume = shared | {"capacity": {"storage": "1Gi"}, "nfs": {"server": "nfs.example", "path": "/"}}
    world.rest("POST", "/api/v1/persistentvolumes", {"metadata": {"name": name}, "spec": volume})
    world.rest("POST", world.at(CLAIMS), {"metadata": {"name": name}, "spec": claim})


def test_a_volume_that_cannot_be_mounted_is_said_until_it_is(world: World) -> None:
    """The test plays the kubelet, which says so in an Event only."""
    bound_claim(world, "far")
    data: Json = {"train": {"uri": "pvc://far/rows.jsonl"}}
    name = world.apply(model={"uri": "pvc://far/base"}, dataset=data, output={"uri": "pvc://far/model"})
    pod = world.pod(name)
    world.bind(pod)
    world.warn(pod, "FailedMount", 'MountVolume.SetUp failed for volume "far" : mount failed: exit status 32')
    message = world.until_reason(name, "StorageFailed")["message"]
    fields = "spec.model.uri, spec.dataset.train.uri, spec.output.uri"
    assert message.startswith(
        f"the claim far ({fields}) cannot be mounted on node node-1: MountVolume.SetUp failed"
    )
    assert message.endswith("check that the storage server runs and lets the node mount it")
    world.start_container(pod)
    world.until_phase(name, "Running")
    world.succeed(pod)
    world.until_phase(name, "Succeeded")


def test_a_job_that_is_scaled_to_nothing_waits_and_goes_on_in_the_same_attempt(world: World) -> None:
    name = world.apply()
    pod = world.run(name)
    world.until_phase(name, "Running")
    child = world.at(CHILDREN, world.children(name)[0]["metadata"]["name"])
    world.rest("PATCH", child, {"spec": {"parallelism": 0}}, MERGE)
    world.obey(pod)
    assert '"parallelism":1' in world.until_reason(name, "Queued")["message"]
    assert world.status(name)["phase"] == "Pending"
    world.rest("PATCH", child, {"spec": {"parallelism": 1}}, MERGE)
    world.succeed(world.run(name))
    status = world.until_phase(name, "Succeeded")
    assert [one["number"] for one in status["attempts"]] == [1]


def test_labels_that_a_policy_rewrites_hide_neither_pod_nor_claim(world: World) -> None:
    """Only those of finetune.dev are ours; the claim is known by its name, whatever its labels."""
    name = world.apply()
    pod = world.pod(name)
    (claim,) = world.claims(name)
    theirs = {"app.kubernetes.io/managed-by": "platform", "app.kubernetes.io/name": "anything"}
    ours = dict.fromkeys(claim["metadata"]["labels"])
    world.rest("PATCH", world.at(PODS, pod), {"metadata": {"labels": theirs}}, MERGE)
    path = world.at(CLAIMS, claim["metadata"]["name"])
    world.rest("PATCH", path, {"metadata": {"labels": ours | theirs}}, MERGE)
    world.end(world.run(name), ExitCode.STORAGE)
    world.succeed(world.run(name, attempt=2))
    status = world.until_phase(name, "Succeeded")
    assert [one["reason"] for one in status["attempts"]] == ["StorageFailed", "Succeeded"]
    assert world.rest("GET", path)["metadata"]["uid"] == claim["metadata"]["uid"]


def test_a_pod_left_by_its_job_is_stopped_by_hand_and_no_attempt_begins_beside_it(
    world: World, operator: Operator
) -> None:
    name = world.apply()
    pod = world.run(name)
    world.until_phase(name, "Running")
    path = world.at(CHILDREN, world.children(name)[0]["metadata"]["name"])
    world.rest("DELETE", path, {"propagationPolicy": "Orphan", "apiVersion": "v1", "kind": "DeleteOptions"})
    until(lambda: not world.children(name), "its Job is gone")
    operator.kill()
    operator.start().ready()
    world.change(name, suspend=True)
    said = until(
        lambda: "orphan" in (m := world.condition(name, "Running")["message"]) and m, "the pod is named"
    )
    assert f"kubectl delete pod {pod} -n {NAMESPACE}" in said
    world.rest("DELETE", world.at(PODS, pod))
    world.obey(pod)
    status = world.until_phase(name, "Suspended")
    assert [one["reason"] for one in status["attempts"]] == ["Suspended"]


def test_a_status_that_somebody_applies_by_force_hinders_no_stop(world: World) -> None:
    name = world.apply()
    pod = world.run(name)
    world.until_phase(name, "Running")
    world.write_status(name, {"attempt": 7, "phase": "Failed"})
    world.until_phase(name, "Running")
    assert world.status(name)["attempt"] == 1
    world.change(name, suspend=True)
    world.obey(pod)
    world.until_phase(name, "Suspended")
