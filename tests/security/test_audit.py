"""What the operator asks of the API server over the lives of jobs of every kind in two teams' namespaces: nothing
outside of them, nothing about a Secret of theirs, and every right of the chart but those listed here. And what anybody
writes of a job that fails its preflight: nothing that asks for a GPU.

By the audit log of a kube-apiserver; the operator has its own account with the rights that the chart grants. The teams'
namespaces admit restricted pods only.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import LARGE_OBJECTIVE
from chart.rendering import CHART, NAMESPACE, RELEASE
from chart.test_rbac import ON_ITS_LEASE, ON_ITS_SECRET, ON_JOBS, ON_NODES, ON_TOKENS, ON_WORKLOADS
from finetune_api.run import ExitCode
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import CHILDREN, CONFIG_MAPS, MERGE, Rest, World, make_namespace
from integration.release import CRD, IMAGE, Operator, Tools, eventually, operator
from integration.test_chart_install import report
from integration.test_operator_nodes import ON_ONE_MACHINE, TWO, pods_of
from integration.test_operator_preflight import BAD_ROW, PASSED, fail
from integration.test_operator_search import GRID, concluded, train, until_trials
from security.audit import Audit, Request, Right, audited

Json = dict[str, Any]

TEAMS = ("team-a", "team-b")
OUTSIDE = "outside"
SECRETS = "/api/v1/namespaces/{}/secrets"
SCOPES: dict[str, list[str]] = {
    "cluster": ["--set", "rbac.scope=cluster"],
    "namespaces": ["--set", f"rbac.scope=namespaces,rbac.namespaces={{{','.join(TEAMS)}}}"],
}
GRANTED = {*ON_JOBS, *ON_WORKLOADS, *ON_TOKENS, *ON_ITS_LEASE, *ON_ITS_SECRET}
NOT_USED: set[Right] = {
    ("finetune.dev", "finetunejobs/status", "get"),  # only `helm test` asks for it
    ("resource.k8s.io", "resourceclaimtemplates", "get"),  # only for a job with a claim from a template
}
EVERYWHERE = {("finetune.dev", "finetunejobs"), ("batch", "jobs"), ("", "pods")}
OURS = "finetune.dev/job-uid"
GPU = "nvidia.com/gpu"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ApiServer, Audit]]:
    with audited(tmp_path_factory.mktemp("audit")) as started:
        rest = Rest(started[0])
        make_namespace(rest, NAMESPACE, inputs=False)
        restricted = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        for name in (*TEAMS, OUTSIDE):
            make_namespace(rest, name)
            rest("PATCH", f"/api/v1/namespaces/{name}", restricted, MERGE)
            rest("POST", SECRETS.format(name), {"metadata": {"name": "hub"}, "stringData": {"token": "hf_x"}})
        labels = {f"{GPU}.memory": "15360", f"{GPU}.product": "Tesla-T4"}
        rest("POST", "/api/v1/nodes", {"metadata": {"name": "with-gpus", "labels": labels}})
        yield started


@pytest.fixture
def release(server: tuple[ApiServer, Audit], scope: str) -> Iterator[Tools]:
    tools = Tools(server[0])
    tools.helm("install", str(CHART), "--set", IMAGE, *SCOPES[scope])
    yield tools
    for team in (*TEAMS, OUTSIDE):
        tools.kubectl(
            "delete", "finetunejobs,jobs,pods,configmaps", "--all", "--namespace", team, "--wait=false"
        )
    tools.helm("uninstall")
    tools.kubectl("delete", CRD, "--ignore-not-found")
    tools.kubectl(
        "delete", "leases", "--all", "--namespace", NAMESPACE
    )  # the next release elects its own leader


@pytest.mark.parametrize("scope", SCOPES)
def test_the_life_of_jobs_in_two_namespaces_asks_for_nothing_outside_of_them(
    release: Tools, server: tuple[ApiServer, Audit], scope: str, tmp_path: Path
) -> None:
    api, audit = server
    mark, rest = audit.mark(), Rest(api)
    a_decoy(World(rest, OUTSIDE))
    with operator(release, tmp_path) as running:
        lives = {team: live(World(rest, team), running) for team in TEAMS}
    asked = list(audit.requests(mark))
    assert {one.code for one in asked if one.code in (401, 403)} == set()
    used = {one.right for one in asked}
    granted = GRANTED | (ON_NODES if scope == "cluster" else set())
    assert used <= granted
    assert granted - used == NOT_USED
    assert {one.namespace for one in asked if one.namespace} == {*TEAMS, NAMESPACE}
    assert [one for one in asked if not one.namespace and not may_ask_everywhere(one, scope)] == []
    secrets = {(one.namespace, one.name) for one in asked if one.right[1] == "secrets"}
    assert secrets == {(NAMESPACE, f"{RELEASE}-tls")}
    here = {one.right for one in asked if one.namespace == NAMESPACE}
    assert here <= {*ON_ITS_LEASE, *ON_ITS_SECRET}
    for team, (good, bad) in lives.items():
        assert gpu_memory(World(rest, team), bad) == (15_360 * 2**20 if scope == "cluster" else None)
        assert written_of(audit, mark, team, good) == {
            ("jobs", "p1", False),
            ("pods", "p1", False),
            ("jobs", "a1", True),
            ("pods", "a1", True),
        }
        assert written_of(audit, mark, team, bad) == {("jobs", "p1", False), ("pods", "p1", False)}


def gpu_memory(world: World, name: str) -> int | None:
    """What preflight of a job knows of it."""
    (files,) = world.files(name)
    found: int | None = json.loads(files["run.json"]).get("gpuMemory")
    return found


def written_of(audit: Audit, mark: int, namespace: str, name: str) -> set[tuple[str, str, bool]]:
    """The kinds of a job's children that anybody wrote, the ends of their names, and whether they ask for a GPU."""
    found = set()
    for kind, body in audit.workloads(namespace, mark):
        of = body.get("metadata", {})
        if of.get("labels", {}).get("finetune.dev/job-name") == name:
            child = of.get("generateName", "").removesuffix("-") or of["name"]
            found.add((kind, child.rpartition("-")[2], GPU in str(body["spec"])))
    return found


def may_ask_everywhere(asked: Request, scope: str) -> bool:
    """Reviews of tokens; in the scope of the cluster, nodes, and lists and watches: of Jobs and pods its own only."""
    if asked.right in ON_TOKENS or (scope == "cluster" and asked.right in ON_NODES):
        return True
    group, resource, verb = asked.right
    known = scope == "cluster" and (group, resource) in EVERYWHERE and verb in ("list", "watch")
    return known and (resource == "finetunejobs" or OURS in asked.selector)


def a_decoy(outside: World) -> None:
    """Objects with our names and labels, and a Secret, in a namespace without FineTuneJobs."""
    labels = {"app.kubernetes.io/managed-by": "finetune-operator", "finetune.dev/job-name": "x"}
    meta = {"labels": labels | {"finetune.dev/job-uid": "7d2c1e8a", "finetune.dev/attempt": "1"}}
    container: Json = {"name": "trainer", "image": "x"}
    container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod: Json = {"restartPolicy": "Never", "containers": [container]}
    pod["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    body = {"metadata": meta | {"name": "x-7d2c1e8a-a1"}, "spec": {"template": {"spec": pod}}}
    outside.rest("POST", outside.at(CHILDREN), body)
    outside.rest("POST", outside.at(CONFIG_MAPS), {"metadata": meta | {"name": "x-7d2c1e8a-a1"}})


def live(world: World, running: Operator) -> tuple[str, str]:
    """Jobs of every kind, from their creation to their ends; one that passes preflight, and one that fails it."""
    hub = {"uri": "hf://org/base", "credentials": {"secretName": "hub"}}
    apart = world.apply(resources=TWO, scheduling=ON_ONE_MACHINE, ttlSecondsAfterFinished=0)
    refused = world.apply(scheduling={"priorityClassName": "no-such-class"})
    queued = world.apply(scheduling={"queue": "team"})
    checked, doomed = (world.apply(resources={"gpusPerNode": 1}) for _ in range(2))
    trained = world.apply(
        model=hub, env=[{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]
    )
    failing = world.apply(ttlSecondsAfterFinished=0)
    searched = world.apply(search=GRID | {"parallelism": 3})
    stopped = world.apply()
    env = [{"name": f"V{number}", "value": "x" * 4000} for number in range(16)]
    large = world.apply(env=env, objective=LARGE_OBJECTIVE, ttlSecondsAfterFinished=0)
    paused = world.apply(search=GRID)

    pod = world.run(trained)
    authority = world.files(trained)[0]["ca.crt"]
    assert report(running, world.token(pod), authority) == 400, (
        "the token is the pod's own; the body is empty"
    )
    world.end(world.run(failing), ExitCode.DATA)
    world.succeed(pod)
    world.until_phase(trained, "Succeeded")
    world.succeed(world.preflight_pod(checked), PASSED)
    world.pod(checked)
    fail(world, world.preflight_pod(doomed), BAD_ROW)
    world.until_phase(doomed, "Failed")
    world.until_reason(refused, "ChildRefused")
    eventually(lambda: world.children(queued))

    pod = world.run(stopped)
    world.until_phase(stopped, "Running")
    world.change(stopped, suspend=True)
    world.obey(pod)
    world.until_phase(stopped, "Suspended")
    world.change(stopped, suspend=False)
    world.succeed(world.run(stopped, attempt=2))
    world.until_phase(stopped, "Succeeded")

    (trial,) = until_trials(world, paused, 1)
    world.run(trial)
    world.change(paused, suspend=True)
    eventually(lambda: world.job(trial)["spec"].get("suspend"))
    pod = world.run(large)
    assert world.config_maps(large)
    world.succeed(pod)
    world.until_phase(large, "Succeeded")
    eventually(lambda: not world.config_maps(large))
    eventually(lambda: not world.children(failing))
    for trial in until_trials(world, searched, 3):
        train(world, trial)
    concluded(world, searched)
    for pod in pods_of(world, apart):
        world.bind(pod)
        world.start_container(pod)
        world.succeed(pod)
    eventually(lambda: not world.children(apart))
    return checked, doomed
