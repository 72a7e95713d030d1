"""What kube-scheduler itself says of our pods, and the devices that it allocates to them (DRA) without any driver."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import CLAIMS, Operator, Rest, World, serving, until
from kueue.rig import node, scheduler

Json = dict[str, Any]

DRA = "/apis/resource.k8s.io/v1"
GPU = "gpu.example.com"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
VOLUMES = "/api/v1/persistentvolumes"
GATE = {
    "metadata": {"name": "gate"},
    "spec": {
        "matchConstraints": {
            "resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
            ]
        },
        "reinvocationPolicy": "Never",
        "mutations": [
            {
                "patchType": "JSONPatch",
                "jsonPatch": {
                    "expression": '[JSONPatch{op: "add", path: "/spec/schedulingGates",'
                    ' value: [{"name": "example.com/wait"}]}]'
                },
            }
        ],
    },
}
_numbers = count(1)


@pytest.fixture(scope="module")
def operator(cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    rest = Rest(cluster)
    taints = [{"key": "maintenance", "value": "yes", "effect": "NoSchedule"}]
    with (
        scheduler(cluster, folder),
        node(rest, "node-a", labels={"zone": "a"}),
        node(rest, "node-b", labels={"zone": "b"}, taints=taints),
        serving(cluster, folder, "scheduled") as started,
    ):
        yield started


@pytest.fixture(scope="module")
def world(operator: Operator, rest: Rest) -> World:
    made = World(rest, "scheduled")
    bind_claim(made)
    return made


def bind_claim(world: World) -> None:
    """Bind the claim that jobs read and write to a volume, which the scheduler looks up."""
    claim = world.rest("GET", world.at(CLAIMS, "demo"))
    spec = {
        "accessModes": claim["spec"]["accessModes"],
        "capacity": claim["spec"]["resources"]["requests"],
        "hostPath": {"path": "/played"},
        "claimRef": {
            "kind": "PersistentVolumeClaim",
            "namespace": world.namespace,
            "name": "demo",
            "uid": claim["metadata"]["uid"],
        },
    }
    world.rest("POST", VOLUMES, {"metadata": {"name": "scheduled"}, "spec": spec})
    until(lambda: world.rest("GET", world.at(CLAIMS, "demo"))["spec"].get("volumeName"), "the claim is bound")


def apply(world: World, **fields: Any) -> str:
    name = f"scheduled-{next(_numbers)}"
    return world.apply(name, **({"output": {"uri": f"pvc://demo/{name}"}} | fields))


def sentence(world: World, name: str, part: str) -> str:
    until(lambda: part in world.condition(name, "Running").get("message", ""), f"{name} says {part!r}")
    return str(world.condition(name, "Running")["message"])


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"resources": {"gpusPerNode": 1}}, "no node offers 1 free nvidia.com/gpu: wait, or set resources"),
        (
            {"resources": {"gpusPerNode": 0, "requests": {"cpu": "99"}}},
            "wait, or ask for less cpu in resources.requests",
        ),
        (
            {"resources": {"gpusPerNode": 0, "requests": {"memory": "1Ti"}}},
            "wait, or ask for less memory in resources.requests",
        ),
        (
            {"scheduling": {"nodeSelector": {"zone": "b"}}},
            "scheduling.tolerations can tolerate a taint",
        ),
        (
            {"scheduling": {"nodeSelector": {"zone": "nowhere"}}},
            "scheduling.nodeSelector asks for labels that no such node has",
        ),
    ],
    ids=["gpus", "cpu", "memory", "taint", "selector"],
)
def test_the_scheduler_s_refusal_is_quoted_with_a_remedy(world: World, fields: Json, remedy: str) -> None:
    message = sentence(world, apply(world, **fields), remedy)
    assert message.startswith("no node fits: 0/2 nodes are available")
    assert "preemption" not in message


def test_a_scheduler_that_does_not_run_is_named(world: World) -> None:
    name = apply(world, scheduling={"schedulerName": "volcano"})
    assert "check that volcano (scheduling.schedulerName) runs" in sentence(
        world, name, "no scheduler has taken"
    )


def test_devices_are_allocated_to_pods_by_the_scheduler_and_counted_for_the_ranks(
    world: World, rest: Rest
) -> None:
    """No driver runs: a ResourceSlice written by hand offers four devices on one node, and no kubelet prepares them."""
    rest("POST", f"{DRA}/deviceclasses", {"metadata": {"name": GPU}, "spec": {}})
    offered = {
        "driver": GPU,
        "nodeName": "node-a",
        "pool": {"name": "node-a", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": f"gpu-{number}"} for number in range(4)],
    }
    rest("POST", f"{DRA}/resourceslices", {"metadata": {"name": "node-a"}, "spec": offered})
    request = {"name": "gpu", "exactly": {"deviceClassName": GPU, "count": 2}}
    template = {"metadata": {"name": "two-gpus"}, "spec": {"spec": {"devices": {"requests": [request]}}}}
    rest("POST", world.at(f"{DRA}/namespaces/{{}}/resourceclaimtemplates"), template)

    claims = {"claims": [{"name": "gpus", "resourceClaimTemplateName": "two-gpus"}]}
    names = [apply(world, resources=claims) for _ in range(2)]
    allocated = [devices_of(world, bound(world, name)) for name in names]
    assert [len(devices) for devices in allocated] == [2, 2]
    assert len({*allocated[0], *allocated[1]}) == 4
    assert [world.status(name)["display"]["gpus"] for name in names] == ["1×2", "1×2"]

    third = apply(world, resources=claims)
    message = sentence(world, third, "cannot allocate all claims")
    assert "the devices of resources.claims are not free on any node: wait, or claim fewer" in message
    pod = world.pod(names[0])
    world.start_container(pod)
    world.succeed(pod)
    world.until_phase(names[0], "Succeeded")
    assert len(devices_of(world, bound(world, third))) == 2


def bound(world: World, name: str) -> Json:
    """The job's pod, bound to a node."""
    pod = world.pod(name)

    def found() -> Json | None:
        body = world.get_pod(pod)
        return body if body and body["spec"].get("nodeName") else None

    try:
        return until(found, f"{name} is bound")
    except AssertionError as error:
        raise AssertionError(f"{error}; {(world.get_pod(pod) or {}).get('status')}") from None


def devices_of(world: World, pod: Json) -> list[str]:
    """The devices that the scheduler has allocated to a pod."""
    (status,) = pod["status"]["resourceClaimStatuses"]
    path = world.at(f"{DRA}/namespaces/{{}}/resourceclaims", status["resourceClaimName"])
    claim = world.rest("GET", path)
    return [one["device"] for one in claim["status"]["allocation"]["devices"]["results"]]


def test_a_scheduling_gate_that_a_policy_sets_is_named(world: World, rest: Rest) -> None:
    rest("POST", f"{ADMISSION}/mutatingadmissionpolicies", GATE)
    binding = {"policyName": "gate", "matchResources": only_in(world.namespace)}
    rest(
        "POST",
        f"{ADMISSION}/mutatingadmissionpolicybindings",
        {"metadata": {"name": "gate"}, "spec": binding},
    )
    try:
        until(lambda: gated(world), "the policy is in force")
    finally:
        rest("DELETE", f"{ADMISSION}/mutatingadmissionpolicybindings/gate")


def gated(world: World) -> bool:
    name = apply(world)
    message = sentence(world, name, "the pod")
    return "is held by the scheduling gate example.com/wait: it starts when" in message


def only_in(namespace: str) -> Json:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
