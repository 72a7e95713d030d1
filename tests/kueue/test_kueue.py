"""Jobs in queues of Kueue itself, with a test that plays the kubelet: quotas, preemption, priorities, deactivation."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from builders import job
from finetune_api.status import CheckpointStatus, ProgressStatus
from finetune_cluster.apiserver import ApiServer
from finetune_operator.kueue import workload_names
from integration.operator_rig import JOBS, MERGE, Operator, Rest, World, serving, until
from kueue.rig import CLASSES, QUEUES, WORKLOADS, Kueue, boost, make_queue, workload_of

Json = dict[str, Any]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "queue"
ONE_CPU = {"gpusPerNode": 0, "requests": {"cpu": "1"}}
ON_ONE_MACHINE = {"topologyKey": "kubernetes.io/hostname"}
_numbers = count(1)


@pytest.fixture(scope="module")
def kueue(cluster: ApiServer, rest: Rest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kueue]:
    with Kueue(cluster.kubeconfig, rest, tmp_path_factory.mktemp("kueue")) as started:
        for name, value in (("low", 100), ("high", 1000)):
            rest("POST", CLASSES, {"metadata": {"name": name}, "value": value})
        yield started


@pytest.fixture(scope="module")
def operator(
    kueue: Kueue, cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    folder, settings = tmp_path_factory.mktemp("operator"), {"priority_boost": 20}
    with serving(cluster, folder, "queued", **settings) as started:
        yield started


@pytest.fixture
def world(operator: Operator, rest: Rest) -> World:
    return World(rest, "queued")


@pytest.fixture
def queue(world: World) -> str:
    """A queue with a quota of one CPU, in which those of higher priority preempt."""
    name = f"queue-{next(_numbers)}"
    preempts = {"preemption": {"withinClusterQueue": "LowerPriority"}}
    make_queue(world, name, {"cpu": "1"}, **preempts)
    return name


def apply(world: World, queue: str, priority: str | None = None, **fields: Any) -> str:
    scheduling = {"queue": queue} | ({"priorityClassName": priority} if priority else {})
    scheduling |= fields.pop("scheduling", {})
    return world.apply(
        f"{queue}-{next(_numbers)}", scheduling=scheduling, **({"resources": ONE_CPU} | fields)
    )


def sentence(world: World, name: str, part: str) -> str:
    until(lambda: part in world.condition(name, "Running").get("message", ""), f"{name} says {part!r}")
    found = world.condition(name, "Running")
    print(found["reason"], found["message"])
    return str(found["message"])


def newest_pod(world: World, name: str, *others: str) -> str:
    def found() -> str | None:
        names = [pod["metadata"]["name"] for pod in world.pods(name)]
        return next((pod for pod in names if pod not in others), None)

    return until(found, f"{name} has a pod that is none of {others}")


def start(world: World, name: str, *others: str) -> str:
    """Play the kubelet for the job's newest pod; the pod."""
    pod = newest_pod(world, name, *others)
    world.bind(pod)
    world.start_container(pod)
    world.until_phase(name, "Running")
    return pod


def test_a_workload_is_named_as_kueue_names_it(world: World, queue: str) -> None:
    name = apply(world, queue)
    child = workload_of(world, name)["metadata"]["ownerReferences"][0]
    assert workload_of(world, name)["metadata"]["name"] in workload_names(child["name"], child["uid"])
    world.succeed(start(world, name))
    world.until_phase(name, "Succeeded")


def test_a_job_waits_for_quota_in_kueue_s_words_and_runs_when_it_is_free(world: World, queue: str) -> None:
    first = apply(world, queue)
    pod = start(world, first)
    second = apply(world, queue)
    message = sentence(world, second, "insufficient unused quota")
    assert message.startswith(f"waits in queue {queue}: couldn't assign flavors to pod set main")
    assert not world.pods(second)
    world.succeed(pod)
    world.until_phase(first, "Succeeded")
    world.succeed(start(world, second))
    world.until_phase(second, "Succeeded")


def test_a_job_larger_than_the_whole_quota_is_told_so(world: World, queue: str) -> None:
    name = apply(world, queue, resources={"gpusPerNode": 0, "requests": {"cpu": "2"}})
    assert "the queue can never admit this job" in sentence(world, name, "cpu")


def test_a_resource_that_the_queue_does_not_cover_is_told(world: World, queue: str) -> None:
    name = apply(world, queue, resources={"gpusPerNode": 1, "requests": {"cpu": "1"}})
    assert "the queue has no quota for it at all" in sentence(world, name, "nvidia.com/gpu")


def test_a_queue_that_does_not_exist_is_told_and_the_job_runs_once_it_does(world: World) -> None:
    missing = f"queue-{next(_numbers)}"
    name = apply(world, missing)
    message = sentence(world, name, "doesn't exist")
    assert f"create LocalQueue {missing} in namespace queued" in message
    make_queue(world, missing, {"cpu": "1"})
    world.succeed(start(world, name))
    world.until_phase(name, "Succeeded")


def test_a_preempted_job_saves_waits_at_its_place_and_resumes_in_the_same_attempt(
    world: World, queue: str
) -> None:
    low = apply(world, queue, "low")
    first = start(world, low)
    child = world.children(low)[0]["metadata"]["uid"]
    high = apply(world, queue, "high")
    world.obey(first)
    message = sentence(world, low, "evicted, and waits in queue")
    assert "Preempted to accommodate a workload" in message or "insufficient unused quota" in message
    later = apply(world, queue, "low")
    world.succeed(start(world, high))
    world.until_phase(high, "Succeeded")
    second = start(world, low, first)  # before the one that came later
    assert not world.pods(later)
    world.succeed(second)
    status = world.until_phase(low, "Succeeded")
    assert [one["number"] for one in status["attempts"]] == [1]
    assert (status["attempts"][0]["evictions"], status.get("retries")) == (1, None)
    assert [one["metadata"]["uid"] for one in world.children(low)] == [child]
    world.succeed(start(world, later))
    world.until_phase(later, "Succeeded")


def test_a_job_on_two_nodes_gets_both_pods_or_none_and_resumes_in_both_after_preemption(world: World) -> None:
    name = f"queue-{next(_numbers)}"
    make_queue(world, name, {"cpu": "2"}, preemption={"withinClusterQueue": "LowerPriority"})
    single = apply(world, name, "low")
    running = start(world, single)
    double = apply(world, name, "low", resources=ONE_CPU | {"nodes": 2}, scheduling=ON_ONE_MACHINE)
    assert "insufficient unused quota" in sentence(world, double, "insufficient unused quota")
    assert world.pods(double) == [], "though the quota has room for one of them"
    world.succeed(running)
    world.until_phase(single, "Succeeded")
    first = both(world, double)
    report(world, double, step=100, saved=100)
    high = apply(world, name, "high")
    for pod in first:
        world.obey(pod)
    sentence(world, double, "evicted, and waits in queue")
    assert world.pods(double) == []
    world.succeed(start(world, high))
    world.until_phase(high, "Succeeded")
    for pod in both(world, double, *first):
        world.succeed(pod)
    (attempt,) = world.until_phase(double, "Succeeded")["attempts"]
    assert (attempt["number"], attempt["evictions"]) == (1, 1)


def both(world: World, name: str, *others: str) -> list[str]:
    """Play the kubelet for the pods of a job on two nodes, once both are there; their names."""

    def found() -> list[str]:
        names = [pod["metadata"]["name"] for pod in world.pods(name) if pod["metadata"]["name"] not in others]
        return names if len(names) == 2 else []

    pods = until(found, f"{name} has two pods")
    for pod in pods:
        world.bind(pod)
        world.start_container(pod)
    world.until_phase(name, "Running")
    return pods


def labelled(world: World, queue: str, **labels: str) -> str:
    """A job in a queue with these labels of Kueue on the FineTuneJob itself."""
    body = job(f"{queue}-{next(_numbers)}", scheduling={"queue": queue}, resources=ONE_CPU)
    found = {f"kueue.x-k8s.io/{name.replace('_', '-')}": value for name, value in labels.items()}
    world.rest("POST", world.at(JOBS), body | {"metadata": body["metadata"] | {"labels": found}})
    return str(body["metadata"]["name"])


def make_priority(world: World, name: str, value: int) -> None:
    body = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "WorkloadPriorityClass", "value": value}
    world.rest("POST", f"{QUEUES}/workloadpriorityclasses", body | {"metadata": {"name": name}})


def test_a_priority_class_of_the_queue_on_the_finetunejob_preempts_one_without(
    world: World, queue: str
) -> None:
    make_priority(world, "urgent", 500)
    ordinary = apply(world, queue)
    first = start(world, ordinary)
    urgent = labelled(world, queue, priority_class="urgent")
    assert workload_of(world, urgent)["spec"]["priority"] == 500
    world.obey(first)
    sentence(world, ordinary, "evicted, and waits in queue")
    world.succeed(start(world, urgent))
    world.until_phase(urgent, "Succeeded")
    world.succeed(start(world, ordinary, first))
    world.until_phase(ordinary, "Succeeded")


def test_a_priority_class_that_does_not_exist_is_named(world: World, queue: str) -> None:
    name = labelled(world, queue, priority_class="absent")
    sentence(world, name, "that there is a WorkloadPriorityClass absent (kueue.x-k8s.io/priority-class)")
    make_priority(world, "absent", 1)
    world.succeed(start(world, name))
    world.until_phase(name, "Succeeded")


def test_kueue_ends_what_runs_for_longer_than_the_label_allows_and_the_status_says_so(
    world: World, queue: str
) -> None:
    name = labelled(world, queue, max_exec_time_seconds="3")
    assert workload_of(world, name)["spec"]["maximumExecutionTimeSeconds"] == 3
    world.obey(start(world, name))
    assert "is deactivated" in sentence(world, name, "maximum execution time")


def test_a_deactivated_workload_stays_so_until_somebody_activates_it(world: World, queue: str) -> None:
    name = apply(world, queue)
    pod = start(world, name)
    workload = world.at(WORKLOADS, workload_of(world, name)["metadata"]["name"])
    world.rest("PATCH", workload, {"spec": {"active": False}}, MERGE)
    world.obey(pod)
    assert "The workload is deactivated" in sentence(world, name, "kubectl patch workload")
    world.rest("PATCH", workload, {"spec": {"active": True}}, MERGE)
    world.succeed(start(world, name, pod))
    world.until_phase(name, "Succeeded")


def test_a_queue_that_is_stopped_evicts_and_resumes(world: World, queue: str) -> None:
    name = apply(world, queue)
    pod = start(world, name)
    path = f"{QUEUES}/clusterqueues/{queue}"
    world.rest("PATCH", path, {"spec": {"stopPolicy": "HoldAndDrain"}}, MERGE)
    world.obey(pod)
    sentence(world, name, "evicted, and waits in queue")
    world.rest("PATCH", path, {"spec": {"stopPolicy": "None"}}, MERGE)
    world.succeed(start(world, name, pod))
    world.until_phase(name, "Succeeded")


def test_a_queued_job_can_be_suspended_and_moved_to_another_queue(world: World, queue: str) -> None:
    busy = apply(world, queue)
    pod = start(world, busy)
    name = apply(world, queue)
    sentence(world, name, "insufficient unused quota")
    other = f"queue-{next(_numbers)}"
    make_queue(world, other, {"cpu": "1"})
    world.change(name, suspend=True)
    world.until_phase(name, "Suspended")
    world.change(name, suspend=False, scheduling={"queue": other})
    world.succeed(start(world, name))
    world.until_phase(name, "Succeeded")
    world.succeed(pod)


def test_a_deleted_job_gives_its_quota_back(world: World, queue: str) -> None:
    first = apply(world, queue)
    pod = start(world, first)
    second = apply(world, queue)
    sentence(world, second, "insufficient unused quota")
    world.delete(first)
    world.obey(pod)
    world.succeed(start(world, second))
    world.until_phase(second, "Succeeded")


def report(world: World, name: str, *, step: int, saved: int | None) -> None:
    """What the trainer would have reported."""
    latest = CheckpointStatus(step=saved).to_json() if saved else None
    world.write_status(name, {"progress": ProgressStatus(step=step).to_json(), "latestCheckpoint": latest})


def unsaved_until_boosted(world: World, name: str) -> None:
    """Report steps without a checkpoint until Kueue knows of them."""
    steps = count(100)

    def boosted() -> bool:
        report(world, name, step=next(steps), saved=None)
        return int(boost(world, name) or 0) > 0

    until(boosted, f"{name} is worth more than when it began")


def test_kueue_preempts_the_job_that_has_just_saved_though_it_was_admitted_first(world: World) -> None:
    """Without the boost it takes the one that was admitted last."""
    wide, resources = f"queue-{next(_numbers)}", {"gpusPerNode": 16}  # a GPU-minute in four seconds
    make_queue(world, wide, {"nvidia.com/gpu": "32"}, preemption={"withinClusterQueue": "LowerPriority"})
    saved = apply(world, wide, "low", resources=resources)
    pod = start(world, saved)
    report(world, saved, step=100, saved=100)
    unsaved = apply(world, wide, "low", resources=resources)
    other = start(world, unsaved)
    unsaved_until_boosted(world, unsaved)
    assert boost(world, saved) in (None, "0")
    high = apply(world, wide, "high", resources=resources)
    world.obey(pod)
    sentence(world, saved, "evicted, and waits in queue")
    assert world.status(unsaved)["phase"] == "Running"
    report(world, unsaved, step=500, saved=500)
    until(lambda: boost(world, unsaved) == "0", "a checkpoint lowers it")
    world.succeed(start(world, high))
    for name, running in ((unsaved, other), (saved, start(world, saved, pod))):
        world.succeed(running)
        world.until_phase(name, "Succeeded")


def test_a_search_and_its_trials_wait_in_the_queue(world: World, queue: str) -> None:
    parameters = [{"path": "training.seed", "choice": [1, 2]}]
    search = {"algorithm": "Grid", "parameters": parameters, "parallelism": 2}
    name = apply(world, queue, search=search)
    trials = until(lambda: _trials(world, name, 2), "there are two trials")
    until(lambda: all(world.children(trial) for trial in trials), "both have Jobs")
    queues = {world.children(trial)[0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] for trial in trials}
    assert queues == {queue}

    def one_waits() -> bool:
        said = [world.condition(trial, "Running").get("message", "") for trial in trials]
        return sum("insufficient unused quota" in message for message in said) == 1

    until(one_waits, "one waits")
    world.delete(name)


def _trials(world: World, parent: str, number: int) -> list[str] | None:
    found = [
        one["metadata"]["name"]
        for one in world.rest.items(world.at(JOBS))
        if any(owner["name"] == parent for owner in one["metadata"].get("ownerReferences", []))
    ]
    return found if len(found) == number else None


def test_while_kueue_is_down_nothing_is_admitted_and_nothing_is_lost(
    world: World, queue: str, kueue: Kueue
) -> None:
    name = apply(world, queue)
    pod = start(world, name)
    kueue.stop()
    try:
        refused = apply(world, queue)
        assert "failed calling webhook" in world.until_reason(refused, "ChildRefused")["message"]
        assert world.status(name)["phase"] == "Running"
    finally:
        kueue.start()
    world.succeed(pod)
    world.until_phase(name, "Succeeded")
    world.succeed(start(world, refused))
    world.until_phase(refused, "Succeeded")


def test_the_example_s_queue_admits_the_example_s_job(world: World) -> None:
    documents = YAML(typ="safe", pure=True).load_all((EXAMPLE / "queues.yaml").read_text())
    for body in documents:
        scope = f"/namespaces/{world.namespace}" if body["kind"] == "LocalQueue" else ""
        world.rest("POST", f"{QUEUES}{scope}/{body['kind'].lower()}s", body)
    body = YAML(typ="safe", pure=True).load((EXAMPLE / "job.yaml").read_text())
    world.rest("POST", world.at(JOBS), body)
    name = body["metadata"]["name"]
    world.succeed(start(world, name))
    world.until_phase(name, "Succeeded")
