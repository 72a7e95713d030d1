"""Whole lives of FineTuneJobs as real objects: the operator runs as a process, the test is user and kubelet."""

import json
import time
from collections.abc import Iterator

import pytest

from builders import LARGE_OBJECTIVE
from finetune_api.run import ExitCode, RunConfig, RunReport, to_message
from finetune_api.status import ResolvedModel, ResolvedStatus
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import (
    CHILDREN,
    CONFIG_MAPS,
    DONE,
    JOBS,
    PODS,
    TRAINER,
    Operator,
    Rest,
    World,
    make_namespace,
    running,
    until,
)
from mounted import files_in

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def operator(cluster: ApiServer, rest: Rest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """One operator for this module, over two namespaces."""
    make_namespace(rest, "lives")
    make_namespace(rest, "quota", inputs=False)
    folder = tmp_path_factory.mktemp("operator")
    with running(cluster.kubeconfig, folder, namespaces=["lives", "quota"], retry_backoff=0.3) as started:
        yield started
        assert started.alive, started.log()
        assert "Traceback" not in started.log(), started.log()


@pytest.fixture
def world(operator: Operator, rest: Rest) -> World:
    assert operator.alive, operator.log()
    return World(rest, "lives")


def test_a_job_becomes_a_model(world: World, operator: Operator) -> None:
    name = world.apply()
    pod = world.run(name)
    assert len(world.children(name)) == len(world.claims(name)) == 1
    status = world.until_phase(name, "Running")
    assert status["attempts"][0]["node"] == "node-1"
    world.succeed(pod)

    status = world.until_phase(name, "Succeeded")
    uid = world.job(name)["metadata"]["uid"]
    assert status["model"]["digest"].startswith("sha256:")
    assert status["model"]["uri"] == f"pvc://{name}-{uid[:8]}/model"
    assert status["resolved"]["image"].endswith("c" * 64)
    assert status["display"]["progress"] == "100%"
    assert {one["type"]: one["status"] for one in status["conditions"]} == {
        "Running": "False",
        "Complete": "True",
        "Failed": "False",
        "Suspended": "False",
        "Finished": "True",
    }
    assert "finalizers" not in world.job(name)["metadata"]
    assert "annotations" not in world.job(name)["metadata"]


@pytest.mark.parametrize("code", [0, ExitCode.PRUNED], ids=["a model", "pruned"])
def test_no_pod_follows_an_end_that_did_not_wait_for_the_job(world: World, code: int) -> None:
    """Not even if the pod is deleted before the Job controller has counted it."""
    name = world.apply(retry={"limit": 3})
    pod = world.run(name)
    report = DONE if code == 0 else RunReport(exit_code=ExitCode.PRUNED, message="others are better")
    world.end(pod, code, to_message(report))
    world.rest("DELETE", world.at(PODS, pod))
    until(lambda: world.status(name).get("completionTime"), "the job has ended")
    version = world.job(name)["metadata"]["resourceVersion"]
    wanted = "Failed" if code else "Complete"

    def over() -> bool:
        (child,) = world.children(name)
        found = child.get("status", {}).get("conditions", [])
        return any(one["type"] == wanted and one["status"] == "True" for one in found)

    until(over, f"its Job is {wanted}")
    assert [one["metadata"]["name"] for one in world.pods(name) if one["metadata"]["name"] != pod] == []
    assert world.job(name)["metadata"]["resourceVersion"] == version


def test_what_the_trainer_needs_is_in_its_pod(world: World) -> None:
    labels = ["straße", "日本語", "a\nb\u2028"]
    name = world.apply(objective={"classification": {"labels": labels}})
    pod = world.get_pod(world.pod(name))
    assert pod
    assert world.config_maps(name) == []
    config = RunConfig.from_json(json.loads(files_in(pod, None)["run.json"]))
    assert (config.job.name, config.job.namespace, config.job.attempt) == (name, "lives", 1)
    assert config.objective.classification
    assert config.objective.classification.labels == labels
    assert files_in(pod, None) == world.files(name)[0]


def test_a_configuration_that_is_too_large_for_its_pod_is_in_a_config_map(world: World) -> None:
    name = world.apply(objective=LARGE_OBJECTIVE, ttlSecondsAfterFinished=1)
    pod = world.run(name)
    (stored,) = world.config_maps(name)
    assert stored["immutable"] is True
    assert stored["metadata"]["ownerReferences"][0]["uid"] == world.job(name)["metadata"]["uid"]
    config = RunConfig.from_json(json.loads(files_in(world.get_pod(pod) or {}, stored)["run.json"]))
    assert config.objective.classification
    assert config.objective.classification.labels == LARGE_OBJECTIVE["classification"]["labels"]
    world.change(name, suspend=True)
    world.obey(pod)
    world.until_phase(name, "Suspended")
    assert world.config_maps(name) == []
    world.change(name, suspend=False)
    world.succeed(world.run(name, attempt=2))
    world.until_phase(name, "Succeeded")
    until(lambda: not world.children(name) and not world.config_maps(name), "the children are gone")


def test_a_job_of_the_hub_mounts_its_token_and_every_attempt_trains_from_one_commit(world: World) -> None:
    model = {"uri": "hf://org/base@main", "credentials": {"secretName": "hub"}}
    name = world.apply(model=model, dataset={"train": {"uri": "hf://datasets/org/reviews/train.csv"}})
    pod = world.run(name)
    mounted = [volume["secret"] for volume in world.pods(name)[0]["spec"]["volumes"] if "secret" in volume]
    items = [{"key": "token", "path": "token"}]
    assert mounted == [{"secretName": "hub", "items": items, "defaultMode": 0o440}]
    resolved = ResolvedStatus(model=ResolvedModel(uri=model["uri"], revision=COMMIT))
    world.end(pod, 74, to_message(RunReport(exit_code=ExitCode.STORAGE, resolved=resolved)))
    world.run(name, attempt=2)
    first, second = [RunConfig.from_json(json.loads(one["run.json"])).model for one in world.files(name)]
    assert (first.uri, first.revision) == ("hf://org/base@main", None)
    assert (second.uri, second.revision) == ("hf://org/base@main", COMMIT)
    assert world.status(name)["resolved"]["model"]["revision"] == COMMIT


def test_the_claim_has_no_owner_and_everything_else_has(world: World) -> None:
    name = world.apply()
    world.pod(name)
    assert "ownerReferences" not in world.claims(name)[0]["metadata"]
    for child in world.children(name):
        assert child["metadata"]["ownerReferences"][0]["uid"] == world.job(name)["metadata"]["uid"]


def test_transitions_are_told_as_events(world: World) -> None:
    name = world.apply()
    pod = world.run(name)
    world.until_phase(name, "Running")
    world.succeed(pod)
    world.until_phase(name, "Succeeded")
    until(lambda: len(world.events(name)) >= 3, "the events are there")
    assert [one["reason"] for one in world.events(name)] == ["Accepted", "Running", "Succeeded"]
    assert {one["type"] for one in world.events(name)} == {"Normal"}


def test_a_fault_in_the_data_fails_the_job_with_file_and_row(world: World) -> None:
    name = world.apply()
    pod = world.run(name)
    message = "pvc://demo/data/reviews.jsonl, row 17: label is missing"
    world.end(pod, 65, RunReport(exit_code=65, message=message).model_dump_json(by_alias=True))
    status = world.until_phase(name, "Failed")
    assert world.condition(name, "Failed")["message"] == message
    assert world.condition(name, "Stalled")["status"] == "True"
    assert (status["attempt"], status["attempts"][0]["exitCode"]) == (1, 65)
    until(
        lambda: world.events(name)[-1:] and world.events(name)[-1]["type"] == "Warning", "a warning is told"
    )


def test_an_interrupted_attempt_is_followed_by_one_that_costs_nothing(world: World) -> None:
    name = world.apply(retry={"limit": 0})
    world.end(world.run(name), 75)
    world.succeed(world.run(name, attempt=2))
    status = world.until_phase(name, "Succeeded")
    assert [one["counted"] for one in status["attempts"]] == [False, False]
    assert "retries" not in status


def test_an_evicted_pod_costs_nothing(world: World) -> None:
    name = world.apply(retry={"limit": 0})
    world.disrupt(world.run(name), 143, "EvictionByEvictionAPI")
    world.pod(name, attempt=2)
    first = world.status(name)["attempts"][0]
    assert (first["reason"], first["counted"]) == ("Preempted", False)


def test_counted_retries_end_at_the_limit(world: World) -> None:
    name = world.apply(retry={"limit": 1})
    world.end(world.run(name), 70, "boom")
    world.end(world.run(name, attempt=2), 139)
    status = world.until_phase(name, "Failed")
    assert [one["reason"] for one in status["attempts"]] == ["TrainerFault", "Crashed"]
    assert "spec.retry.limit of 1 reached" in world.condition(name, "Failed")["message"]
    assert len(world.children(name)) == 2


def test_a_retry_keeps_away_from_the_nodes_whose_gpus_were_not_seen(world: World) -> None:
    name = world.apply(retry={"limit": 5})
    for attempt, node in ((1, "node-1"), (2, "node-2")):
        world.end(world.run(name, attempt, node), ExitCode.NO_GPU, "torch sees 0 GPUs")
    affinity = (world.get_pod(world.pod(name, attempt=3)) or {})["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [one["values"] for one in term["preference"]["matchFields"]] == [["node-1"], ["node-2"]]


def test_suspend_stops_the_attempt_and_resume_begins_the_next(world: World) -> None:
    name = world.apply()
    pod = world.run(name)
    world.until_phase(name, "Running")
    world.change(name, suspend=True)
    world.until_reason(name, "Stopping")
    world.obey(pod)
    world.until_phase(name, "Suspended")
    assert world.children(name) == world.pods(name) == world.config_maps(name) == []
    assert world.condition(name, "Suspended")["status"] == "True"

    world.change(name, suspend=False)
    world.succeed(world.run(name, attempt=2))
    status = world.until_phase(name, "Succeeded")
    assert [one["reason"] for one in status["attempts"]] == ["Suspended", "Succeeded"]


def test_a_job_born_suspended_makes_nothing_until_it_is_resumed(world: World) -> None:
    name = world.apply(suspend=True)
    world.until_phase(name, "Suspended")
    assert world.children(name) == world.claims(name) == []
    world.change(name, suspend=False)
    world.pod(name)


def test_the_deadline_stops_a_job_that_runs_too_long(world: World) -> None:
    name = world.apply(activeDeadlineSeconds=1)
    pod = world.run(name)
    world.obey(pod)
    status = world.until_phase(name, "Failed")
    assert world.reason(name) == "DeadlineExceeded"
    assert status["attempts"][0]["reason"] == "DeadlineExceeded"


def test_after_its_time_to_live_a_finished_job_keeps_its_record_and_its_output(world: World) -> None:
    name = world.apply(ttlSecondsAfterFinished=1)
    world.succeed(world.run(name))
    status = world.until_phase(name, "Succeeded")
    until(lambda: not world.children(name) and not world.config_maps(name), "the children are gone")
    assert len(world.claims(name)) == 1
    assert world.status(name) == status


def test_a_finished_job_does_not_train_again_when_its_children_are_deleted(world: World) -> None:
    name = world.apply()
    world.succeed(world.run(name))
    status = world.until_phase(name, "Succeeded")
    child = world.children(name)[0]["metadata"]["name"]
    world.rest("DELETE", world.at(CHILDREN, child) + "?propagationPolicy=Background")
    until(lambda: not world.pods(name), "the pods are collected")
    assert world.children(name) == []
    assert world.status(name) == status


def test_a_job_deleted_by_hand_while_its_pod_waits_is_made_again(world: World) -> None:
    name = world.apply()
    first = world.pod(name)
    child = world.children(name)[0]["metadata"]
    world.rest("DELETE", world.at(CHILDREN, child["name"]) + "?propagationPolicy=Background")
    until(lambda: world.get_pod(first) is None, "the first pod is gone")
    world.succeed(world.run(name))
    status = world.until_phase(name, "Succeeded")
    assert status["attempt"] == 1
    assert "retries" not in status


@pytest.mark.parametrize("adorned", [False, True], ids=["plain", "with our labels"])
def test_a_stranger_s_job_of_the_same_name_is_never_adopted(world: World, *, adorned: bool) -> None:
    name = world.apply(suspend=True)
    world.until_phase(name, "Suspended")
    uid = world.job(name)["metadata"]["uid"]
    taken = f"{name}-{uid[:8]}-a1"
    labels = {
        "app.kubernetes.io/managed-by": "finetune-operator",
        "finetune.dev/job-name": name,
        "finetune.dev/job-uid": uid,
        "finetune.dev/attempt": "1",
    }
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}}
    world.rest(
        "POST",
        world.at(CHILDREN),
        {
            "metadata": {"name": taken, "labels": labels if adorned else {}},
            "spec": {"template": template, "suspend": True},
        },
    )
    world.change(name, suspend=False)
    message = world.until_reason(name, "ChildNameConflict")["message"]
    assert f"Job {taken} exists and does not belong to this FineTuneJob" in message
    assert world.condition(name, "Stalled")["status"] == "True"
    stranger = world.rest("GET", world.at(CHILDREN, taken))
    assert "ownerReferences" not in stranger["metadata"]
    world.delete(name)


def test_a_quota_that_refuses_the_job_stands_in_the_status_and_lifting_it_helps(
    rest: Rest, operator: Operator
) -> None:
    world = World(rest, "quota")
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    path = world.at("/api/v1/namespaces/{}/resourcequotas")
    rest("POST", path, quota)
    until(lambda: rest("GET", f"{path}/none").get("status", {}).get("hard"), "the quota is in force")
    name = world.apply()
    message = world.until_reason(name, "ChildRefused")["message"]
    assert "exceeded quota: none" in message
    assert world.status(name)["phase"] == "Pending"
    assert world.children(name) == []

    rest("DELETE", f"{path}/none")
    world.change(name, ttlSecondsAfterFinished=100)  # any change brings the next look forward
    world.succeed(world.run(name))
    world.until_phase(name, "Succeeded")


def test_why_a_pod_waits_stands_in_the_status(rest: Rest, operator: Operator) -> None:
    world = World(rest, "quota")
    name = world.apply(resources={"gpusPerNode": 1})
    pod = world.pod(name)
    scheduler = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    world.unschedulable(pod, scheduler)
    said = world.until_reason(name, "MissingObject")["message"]
    assert (
        said == "PersistentVolumeClaim demo does not exist in namespace quota; create it and the job starts"
    )

    world.make_claim("demo")
    world.unschedulable(pod, scheduler + " preemption: no victims.")
    said = world.until_reason(name, "Unschedulable")["message"]
    assert said.endswith("set resources.gpusPerNode: 0 to train on CPU")

    world.bind(pod)
    world.wait_on(pod, "ImagePullBackOff", "manifest unknown")
    assert "manifest unknown; check spec.image" in world.until_reason(name, "ImagePullFailed")["message"]
    world.delete(name)


def test_a_name_used_again_while_the_old_job_ends_is_a_new_job_with_its_own_children(world: World) -> None:
    name = world.apply()
    pod = world.run(name)
    world.until_phase(name, "Running")
    old = world.job(name)["metadata"]["uid"]
    world.delete(name)
    until(
        lambda: "deletionTimestamp" in (world.get_pod(pod) or {"metadata": {}})["metadata"],
        "the old pod stops",
    )
    world.apply(name)
    new = world.job(name)["metadata"]["uid"]

    def made() -> list[dict[str, object]]:
        return [
            one for one in world.children(name) if one["metadata"]["labels"]["finetune.dev/job-uid"] == new
        ]

    until(made, "the new job has its child")
    world.end(pod, 0, '{"model": {"uri": "pvc://a/b", "format": "safetensors"}, "exitCode": 0}')
    world.remove(pod)
    until(lambda: len(world.children(name)) == 1, "the old child is collected")
    assert old != new
    assert world.status(name)["phase"] == "Pending"
    assert len(world.claims(name)) == 2, "every job has an output of its own"
    world.succeed(world.run(name))
    world.until_phase(name, "Succeeded")


def test_a_pod_of_another_namespace_that_names_this_job_changes_nothing(world: World, rest: Rest) -> None:
    name = world.apply()
    pod = world.run(name)
    world.until_phase(name, "Running")
    stranger = World(rest, "quota")
    labels = (world.get_pod(pod) or {})["metadata"]["labels"]
    owners = (world.get_pod(pod) or {})["metadata"]["ownerReferences"]
    spec = {"restartPolicy": "Never", "containers": [{"name": "trainer", "image": "x"}]}
    for place, references in ((stranger, owners), (world, [])):
        spoof = {
            "name": "spoof",
            "labels": labels,
            "ownerReferences": references,
            "finalizers": ["finetune.dev/test"],
        }
        rest("POST", place.at("/api/v1/namespaces/{}/pods"), {"metadata": spoof, "spec": spec})
        place.end("spoof", 65, "spoofed")
    world.succeed(pod)
    assert world.until_phase(name, "Succeeded")["attempts"][0]["exitCode"] == 0


def test_a_status_written_by_a_stranger_does_not_end_the_process(world: World, operator: Operator) -> None:
    name = world.apply()
    world.run(name)
    world.until_phase(name, "Running")
    for status in (None, {}, {"conditions": []}, {"attempt": None, "attempts": []}):
        world.write_status(name, status)
    world.until_phase(name, "Running")
    assert operator.alive
    assert [one["metadata"]["labels"]["finetune.dev/attempt"] for one in world.children(name)] == ["1"]


def test_an_attempt_that_the_status_forgot_ends_before_another_begins(world: World) -> None:
    name = world.apply()
    pod = world.run(name)
    world.until_phase(name, "Running")
    world.write_status(name, {"attempt": 7, "attempts": []})
    world.until_reason(name, "Stopping")
    assert len(world.children(name)) == 1
    world.obey(pod)
    world.succeed(world.run(name, attempt=8))
    world.until_phase(name, "Succeeded")
    assert len(world.children(name)) == 1


def test_a_settled_system_is_quiet(world: World, operator: Operator, rest: Rest) -> None:
    rest("DELETE", world.at(JOBS))
    until(lambda: not rest.items(world.at(JOBS)), "the jobs of the other tests are gone")
    runs, waits, ended = world.apply(), world.apply(), world.apply()
    world.run(runs)
    world.unschedulable(world.pod(waits), "0/1 nodes are available.")
    world.succeed(world.run(ended))
    suspended = world.apply(suspend=True)
    world.until_phase(suspended, "Suspended")
    world.until_phase(runs, "Running")
    world.until_reason(waits, "Unschedulable")
    world.until_phase(ended, "Succeeded")

    def still() -> bool:
        before = operator.writes()
        time.sleep(1)
        return operator.writes() == before

    until(still, "nothing is written any more")
    versions = {one["metadata"]["resourceVersion"] for one in rest.items(world.at(JOBS))}
    writes = operator.writes()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert operator.writes() == writes, operator.log()
        time.sleep(1)
    assert {one["metadata"]["resourceVersion"] for one in rest.items(world.at(JOBS))} == versions


def test_the_image_is_the_administrator_s(world: World) -> None:
    name = world.apply(image="docker.example/evil:1")
    assert world.until_phase(name, "Failed")["conditions"]
    assert world.reason(name) == "ImageNotAllowed"
    assert world.children(name) == []
    assert TRAINER not in world.condition(name, "Failed")["message"]


def test_the_config_map_of_a_stranger_is_not_used(world: World) -> None:
    name = world.apply(suspend=True, objective=LARGE_OBJECTIVE)
    world.until_phase(name, "Suspended")
    taken = f"{name}-{world.job(name)['metadata']['uid'][:8]}-a1"
    world.rest("POST", world.at(CONFIG_MAPS), {"metadata": {"name": taken}, "data": {"run.json": "{}"}})
    world.change(name, suspend=False)
    assert "ConfigMap" in world.until_reason(name, "ChildNameConflict")["message"]
    assert world.children(name) == []
    world.delete(name)
