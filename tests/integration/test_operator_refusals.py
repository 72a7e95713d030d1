"""Refusals of the API server, a webhook or a quota are reported in the status."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from builders import LARGE_OBJECTIVE
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import (
    Operator,
    Rest,
    World,
    make_namespace,
    running,
    serving,
    until,
)

Json = dict[str, Any]

_numbers = count(1)
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"


NAMESPACES = [f"refusals-{number}" for number in range(14)]


@pytest.fixture(scope="module")
def operator(cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with serving(cluster, tmp_path_factory.mktemp("operator"), *NAMESPACES) as started:
        yield started


@pytest.fixture
def world(operator: Operator, rest: Rest) -> World:
    """A namespace of the test's own."""
    return World(rest, NAMESPACES[next(_numbers) - 1])


def webhook(namespace: str, group: str, resource: str, operation: str = "CREATE") -> Json:
    """A webhook for one namespace whose service does not answer."""
    name = f"down-{namespace}"
    rule = {"apiGroups": [group], "apiVersions": ["*"], "operations": [operation], "resources": [resource]}
    return {
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "down.example.com",
                "clientConfig": {"url": "https://127.0.0.1:9/"},
                "rules": [rule],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
        ],
    }


@pytest.mark.parametrize(
    ("group", "resource"), [("batch", "jobs"), ("", "configmaps"), ("", "persistentvolumeclaims")]
)
def test_a_webhook_that_is_down_is_reported_and_the_job_continues_when_it_is_gone(
    world: World, rest: Rest, group: str, resource: str
) -> None:
    made = webhook(world.namespace, group, resource)
    rest("POST", WEBHOOKS, made)
    try:
        name = world.apply(**({"objective": LARGE_OBJECTIVE} if resource == "configmaps" else {}))
        condition = world.until_reason(name, "ChildRefused")
        assert "failed calling webhook" in condition["message"]
        assert world.status(name)["phase"] == "Pending"
    finally:
        rest("DELETE", f"{WEBHOOKS}/{made['metadata']['name']}")
    world.succeed(world.run(name))
    world.until_phase(name, "Succeeded")


def test_a_status_that_cannot_be_written_is_an_event(world: World, rest: Rest) -> None:
    made = webhook(world.namespace, "finetune.dev", "finetunejobs/status", "UPDATE")
    rest("POST", WEBHOOKS, made)
    try:
        name = world.apply()
        until(lambda: world.events(name), "an Event says so")
        event = world.events(name)[0]
        assert (event["type"], event["reason"]) == ("Warning", "Refused")
        assert "failed calling webhook" in event["message"]
    finally:
        rest("DELETE", f"{WEBHOOKS}/{made['metadata']['name']}")
    world.pod(name)


def quota(world: World, **hard: str) -> None:
    spec = {"hard": {name.replace("_", "."): value for name, value in hard.items()}}
    path = world.at("/api/v1/namespaces/{}/resourcequotas")
    world.rest("POST", path, {"metadata": {"name": "q"}, "spec": spec})
    until(lambda: (world.rest.get(f"{path}/q") or {}).get("status", {}).get("hard"), "the quota is in force")


def binds_with_its_first_consumer(rest: Rest) -> str:
    """A storage class; its name."""
    name = f"waiting-{next(_numbers)}"
    body = {
        "metadata": {"name": name},
        "provisioner": "example.com/none",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    rest("POST", CLASSES, body)
    return name


BIG = {"gpusPerNode": 0, "requests": {"cpu": "4"}}


def test_a_quota_on_pods_is_quoted(world: World) -> None:
    quota(world, requests_cpu="1")
    name = world.apply(resources=BIG)
    condition = world.until_reason(name, "ChildRefused")
    assert "exceeded quota: q, requested: requests.cpu=4" in condition["message"]
    assert condition["message"].endswith("or suspend the job and ask for less in resources")
    world.rest("DELETE", world.at("/api/v1/namespaces/{}/resourcequotas/q"))
    world.succeed(world.run(name))


def test_a_claim_that_waits_for_its_first_consumer_is_not_blamed_for_a_quota(
    cluster: ApiServer, rest: Rest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = make_namespace(rest, "first-consumer")
    quota(world, requests_cpu="1")
    settings = {"namespaces": ["first-consumer"], "output_storage_class": binds_with_its_first_consumer(rest)}
    with running(cluster.kubeconfig, tmp_path_factory.mktemp("operator"), **settings):
        name = world.apply(resources=BIG)
        assert "exceeded quota" in world.until_reason(name, "ChildRefused")["message"]
        later = world.status(name)["attempts"][0]["startTime"]
        assert later
        assert world.claims(name)[0]["spec"]["storageClassName"] == settings["output_storage_class"]


def test_a_priority_class_that_does_not_exist_is_named(world: World) -> None:
    name = world.apply(scheduling={"priorityClassName": "no-such-class"})
    message = world.until_reason(name, "ChildRefused")["message"]
    assert "no PriorityClass with name no-such-class was found" in message
    assert message.endswith("or suspend the job and change scheduling.priorityClassName")


def test_a_quota_on_limits_that_a_job_does_not_write_says_where_they_are_written(world: World) -> None:
    quota(world, limits_cpu="8")
    name = world.apply(resources=BIG)
    message = world.until_reason(name, "ChildRefused")["message"]
    assert "must specify limits.cpu" in message
    assert message.endswith("suspend the job and write what the quota asks for in resources")


def test_a_limit_range_is_quoted(world: World) -> None:
    limit = {"type": "Container", "max": {"cpu": "1"}}
    path = world.at("/api/v1/namespaces/{}/limitranges")
    world.rest("POST", path, {"metadata": {"name": "l"}, "spec": {"limits": [limit]}})
    name = world.apply(resources=BIG | {"limits": {"cpu": "4"}})
    message = world.until_reason(name, "ChildRefused")["message"]
    assert "maximum cpu usage per Container is 1" in message
    assert message.endswith("suspend the job and change resources to fit the limit range")


def test_a_limit_that_a_limit_range_sets_is_said_to_come_from_there(world: World) -> None:
    default = {"type": "Container", "default": {"cpu": "1"}}
    path = world.at("/api/v1/namespaces/{}/limitranges")
    world.rest("POST", path, {"metadata": {"name": "l"}, "spec": {"limits": [default]}})
    message = world.until_reason(world.apply(resources=BIG), "ChildRefused")["message"]
    assert "must be less than or equal to cpu limit" in message
    assert message.endswith("suspend the job and write it in resources.limits")


def test_a_job_that_can_never_be_valid_is_stalled_and_says_which_field_of_ours_to_change(
    world: World,
) -> None:
    odd = {"gpusPerNode": 0, "limits": {"hugepages-2Mi": "3Mi", "memory": "1Gi"}}
    name = world.apply(resources=odd)
    condition = world.until_reason(name, "ChildRefused")
    assert "spec.resources.limits" in condition["message"]
    assert "spec.suspend: true" in condition["message"]
    assert world.condition(name, "Stalled")["status"] == "True"
    assert world.condition(name, "Reconciling") == {}
    world.change(name, suspend=True)
    world.until_phase(name, "Suspended")
    world.change(name, suspend=False, resources={"limits": {"hugepages-2Mi": "4Mi"}})
    world.succeed(world.run(name, attempt=2))
    world.until_phase(name, "Succeeded")
