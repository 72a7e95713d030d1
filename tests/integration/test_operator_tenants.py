"""Objects of one namespace's editor do not stop the operator for other namespaces."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from builders import job, script_job
from finetune_api import API_VERSION, KIND
from finetune_api.status import Phase
from finetune_cluster.apiserver import ApiServer
from finetune_sdk import Client
from finetune_sdk.errors import NotFoundError
from integration.operator_rig import (
    CHILDREN,
    JOBS,
    PODS,
    Operator,
    Rest,
    World,
    serving,
    until,
)

Json = dict[str, Any]

WORKERS = 4


@pytest.fixture(scope="module")
def operator(cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    with serving(cluster, folder, "evil", "good", workers=WORKERS) as started:
        yield started


@pytest.fixture
def evil(operator: Operator, rest: Rest) -> World:
    return World(rest, "evil")


@pytest.fixture
def good(operator: Operator, rest: Rest) -> World:
    return World(rest, "good")


def forged_job(world: World, owner: Json, attempt: str, **metadata: Any) -> Json:
    """A Job with the labels and owner of a real attempt."""
    name, uid = owner["metadata"]["name"], owner["metadata"]["uid"]
    labels = {
        "app.kubernetes.io/managed-by": "finetune-operator",
        "finetune.dev/job-name": name,
        "finetune.dev/job-uid": uid,
        "finetune.dev/attempt": attempt,
    }
    reference = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    container = {"name": "trainer", "image": "x"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{name}-{uid[:8]}-a{attempt}",
            "labels": labels,
            "ownerReferences": [reference],
        }
        | metadata,
        "spec": {"backoffLimit": 0, "activeDeadlineSeconds": 1, "template": template},
    }
    return world.rest("POST", world.at(CHILDREN), body)


def suspended_job(world: World, name: str) -> Json:
    spec = {"suspend": True, "ttlSecondsAfterFinished": 0, "retry": {"limit": 0}}
    return world.rest("POST", world.at(JOBS), script_job(name, resources={"gpusPerNode": 0}, **spec))


def requests(operator: Operator) -> int:
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in operator.metrics().splitlines()
        if line.startswith("finetune_operator_api_requests_total")
    )


def test_a_jobs_attempt_number_drives_no_loop(operator: Operator, evil: World, good: World) -> None:
    names = [f"loop-{number}" for number in range(4 * WORKERS)]
    for name in names:
        forged_job(evil, suspended_job(evil, name), "999999999")
    for name in names:
        evil.change(name, suspend=False)
    good.pod(good.apply())
    for name in names:
        until(lambda name=name: evil.status(name).get("attempt") == 1, f"{name} has its own first attempt")
    for name in names:
        evil.end(evil.run(name), 1)
    for name in names:
        evil.until_phase(name, "Failed")
    before = requests(operator)
    good.succeed(good.run(good.apply()))
    assert requests(operator) - before < 1000


@pytest.mark.parametrize("attempt", ["0", "07", "-1", "1e3", "100000", "٣"])
def test_an_impossible_attempt_number_belongs_to_no_attempt(evil: World, attempt: str) -> None:
    owner = suspended_job(evil, f"odd-{abs(hash(attempt)) % 10**6}")
    name = owner["metadata"]["name"]
    if attempt.isascii() and attempt.isalnum():
        forged_job(evil, owner, attempt)
    evil.change(name, suspend=False)
    evil.pod(name)
    assert evil.status(name)["attempt"] == 1


def test_an_attempt_that_a_lost_status_forgot_is_still_found_and_cleared(
    operator: Operator, evil: World
) -> None:
    owner = suspended_job(evil, "forgotten")
    forged_job(evil, owner, "41")
    evil.change("forgotten", suspend=False)
    until(
        lambda: (evil.status("forgotten").get("attempt") or 0) >= 41,
        "it continues from the Job that it finds",
    )
    before = requests(operator)
    evil.until_phase("forgotten", "Failed")
    until(lambda: not evil.children("forgotten"), "its children are cleared")
    assert requests(operator) - before < 60


@pytest.mark.parametrize("levels", [190, 600, 5000])
def test_objects_that_are_nested_without_end_stop_nothing(
    operator: Operator, cluster: ApiServer, evil: World, good: World, levels: int
) -> None:
    """Of a pod and a job the fields of a manager, which any user may write; of a search a value to choose from."""
    labels = {"app.kubernetes.io/managed-by": "finetune-operator"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"deep-{levels}", "labels": labels}}
    pod |= {"spec": {"containers": [{"name": "x", "image": "x"}]}}
    script = script_job(f"deep-{levels}", resources={"gpusPerNode": 0}, suspend=True)
    parameter = {"path": "training.seed", "choice": [1, "HERE"]}
    search = job(f"search-{levels}", search={"parameters": [parameter]}, resources={"gpusPerNode": 0})
    fields, choice = nested('{"f:x":', "{}", "}", levels), nested("[", "1", "]", levels)
    evil.rest.text("POST", evil.at(PODS), managed(pod).replace('"HERE"', fields))
    evil.rest.text("POST", evil.at(JOBS), managed(script).replace('"HERE"', fields))
    evil.rest.text("POST", evil.at(JOBS), json.dumps(search).replace('"HERE"', choice))
    good.succeed(good.run(good.apply()))
    assert operator.alive
    operator.kill()
    operator.start().ready()
    for name, reason in ((f"deep-{levels}", "Suspended"), (f"search-{levels}", "InvalidSpec")):
        found = f'"reason":"{reason}"'
        until(lambda name=name, found=found: found in evil.rest.text("GET", evil.at(JOBS, name)), name)
    good.succeed(good.run(good.apply()))
    theirs = {one.name: one for one in Client("evil", kubeconfig=str(cluster.kubeconfig)).jobs()}
    assert theirs[f"deep-{levels}"].phase is Phase.SUSPENDED
    with pytest.raises(NotFoundError, match=f"search-{levels} not found.*; it is in evil: write --namespace"):
        Client("good", kubeconfig=str(cluster.kubeconfig)).get(f"search-{levels}")


def nested(opening: str, inner: str, closing: str, levels: int) -> str:
    return opening * levels + inner + closing * levels


def managed(body: Json) -> str:
    """The object as JSON, with a field manager."""
    manager = {"manager": "evil", "operation": "Apply", "apiVersion": body["apiVersion"]}
    manager |= {"fieldsType": "FieldsV1", "fieldsV1": "HERE"}
    return json.dumps(body | {"metadata": body["metadata"] | {"managedFields": [manager]}})
