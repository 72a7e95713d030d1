"""Jobs on several nodes against a real API server and Job controller; the test is the kubelet."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3

from finetune_api.run import ExitCode
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import Operator, Rest, World, serving, until
from ports import free_port

Json = dict[str, Any]

SERVICES = "/api/v1/namespaces/{}/services"
TWO = {"nodes": 2, "gpusPerNode": 0}
ON_ONE_MACHINE = {"topologyKey": "kubernetes.io/hostname"}
SCRIPT = {
    "command": ["python", "/scripts/train.py"],
    "objective": None,
    "resources": TWO,
    "scheduling": ON_ONE_MACHINE,
}


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def operator(cluster: ApiServer, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    progress = {"progress_url": f"https://127.0.0.1:{port}", "progress_port": port}
    with serving(
        cluster, folder, "nodes", retry_backoff=0.1, tls_folder=folder / "tls", **progress
    ) as started:
        yield started


@pytest.fixture
def world(operator: Operator, rest: Rest) -> World:
    return World(rest, "nodes")


def pods_of(world: World, name: str, attempt: int = 1) -> list[str]:
    """The names of both pods of an attempt, in the order of their indexes."""

    def both() -> list[Json]:
        found = [
            pod
            for pod in world.pods(name)
            if pod["metadata"]["labels"]["finetune.dev/attempt"] == str(attempt)
            and "deletionTimestamp" not in pod["metadata"]
        ]
        return found if len(found) == 2 else []

    pods = until(both, f"{name} has two pods for attempt {attempt}")
    return sorted(pod["metadata"]["name"] for pod in pods)


def started(world: World, name: str, attempt: int = 1) -> list[str]:
    pods = pods_of(world, name, attempt)
    for number, pod in enumerate(pods):
        world.bind(pod, f"node-{number}")
        world.start_container(pod)
    world.until_phase(name, "Running")
    return pods


def test_the_pods_have_names_in_the_dns_and_the_attempt_ends_with_the_first_failure(world: World) -> None:
    name = world.apply(resources=TWO, scheduling=ON_ONE_MACHINE)
    first, second = started(world, name)
    (child,) = world.children(name)
    pod = world.get_pod(second)
    assert pod
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == (
        f"{child['metadata']['name']}-1",
        name + child["metadata"]["name"].removeprefix(name).removesuffix("-a1"),
    )
    service = world.rest("GET", world.at(SERVICES, pod["spec"]["subdomain"]))
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert world.status(name)["display"]["gpus"] == "2×0"
    world.end(second, 139)
    world.obey(first, ExitCode.PEER_LOST)
    again = started(world, name, attempt=2)
    ended, following = world.status(name)["attempts"]
    assert (ended["reason"], ended["exitCode"], ended["node"]) == ("Crashed", 139, "node-1")
    assert "endTime" not in following
    for pod_name in again:
        world.succeed(pod_name)
    world.until_phase(name, "Succeeded")


def test_a_service_that_is_deleted_before_the_pods_have_met_is_made_again(world: World) -> None:
    name = world.apply(resources=TWO, scheduling=ON_ONE_MACHINE)
    pods = pods_of(world, name)
    for also_starts in pods:
        subdomain = world.get_pod(pods[0])["spec"]["subdomain"]  # type: ignore[index]
        before = world.rest("GET", world.at(SERVICES, subdomain))
        world.rest("DELETE", world.at(SERVICES, subdomain))
        world.bind(also_starts)
        world.start_container(also_starts)
        after = until(lambda: world.rest.get(world.at(SERVICES, subdomain)), "it is made again")  # noqa: B023
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert after["spec"]["selector"] == before["spec"]["selector"]
    world.until_phase(name, "Running")
    for pod in pods:
        world.succeed(pod)
    assert len(world.until_phase(name, "Succeeded")["attempts"]) == 1


def test_a_claim_of_one_node_is_refused_before_there_is_a_pod(world: World) -> None:
    """The rig's claim `demo` is ReadWriteOnce."""
    name = world.apply(resources=TWO)
    said = world.until_reason(name, "ClaimNotShared")["message"]
    assert "the claim demo has the access mode ReadWriteOnce" in said
    assert world.condition(name, "Stalled")["status"] == "True"
    assert world.children(name) == []


def test_two_pods_that_both_report_are_stopped_and_nothing_is_published(world: World, port: int) -> None:
    name = world.apply(**SCRIPT)
    pods = started(world, name)
    authority = world.files(name)[0]["ca.crt"]
    for pod in pods:
        assert post(port, authority, world.token(pod)) == 200
    world.until_reason(name, "Stopping")
    for pod in pods:
        world.obey(pod, 0)
    status = world.until_phase(name, "Failed")
    assert world.reason(name) == "PodsApart"
    assert f"the pods {pods[0]} and {pods[1]} both report as process zero" in status["display"]["message"]
    assert len(status["attempts"]) == 1
    assert "model" not in status


def post(port: int, authority: str, token: str) -> int:
    """What a Hugging Face Trainer sends from its process zero."""
    body = json.dumps({"trainerStatus": {"progressPercentage": 1}}).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urllib3.PoolManager(ca_cert_data=authority, retries=False, timeout=10) as pool:
        return pool.request(
            "POST", f"https://127.0.0.1:{port}/v1/progress", body=body, headers=headers
        ).status
