"""The chart on a real API server: the operator works with the rights that it grants, and needs no others."""

import base64
import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import builders
from chart.rendering import CHART, NAMESPACE, RELEASE, Rendered
from chart.test_rbac import ON_JOBS, ON_NODES, ON_WORKLOADS
from finetune_api.run import ExitCode, RunReport, to_message
from finetune_api.status import PreflightFindings
from finetune_cluster.apiserver import ApiServer
from finetune_cluster.binaries import binary
from integration.release import CRD, IMAGE, ROOT, Operator, Tools, answer_of, eventually, operator
from mounted import files_in

Json = dict[str, Any]

NO_DATA = '[{"op": "remove", "path": "/data"}]'
NAMESPACES = ("team-a", "team-b")
SCOPE_VALUES: Json = {"cluster": {}, "namespaces": {"scope": "namespaces", "namespaces": ["team-a"]}}
SCOPES = {
    "cluster": ["--set", "rbac.scope=cluster"],
    "namespaces": ["--set", "rbac.scope=namespaces,rbac.namespaces={team-a}"],
}


def selfcheck(running: Operator, scope: str) -> tuple[int, list[str]]:
    """What the pod of `helm test` would end with and print."""
    (container,) = Rendered.of({"rbac": SCOPE_VALUES[scope]}).only("Pod")["spec"]["containers"]
    done = subprocess.run(
        [sys.executable, *container["command"][1:], *container["args"]],
        env=running.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def report(running: Operator, token: str, authority: str) -> int:
    """The status with which the operator answers a report; its certificate has to be right."""
    tls = ssl.create_default_context(cadata=authority)
    tls.check_hostname = False  # it is made for the Service's name
    return answer_of(f"{running.progress}/v1/progress", {"Authorization": f"Bearer {token}"}, tls)[0]


def finish(tools: Tools, namespace: str, pod: str, code: int, report: RunReport | None = None) -> None:
    """What a kubelet would say of a pod whose program ended with this code, and left this report."""
    message = {"message": to_message(report)} if report else {}
    ended = {
        "name": "trainer",
        "state": {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"} | message},
        "ready": False,
        "restartCount": 0,
        "image": "trainer",
        "imageID": "",
    }
    status = {"status": {"phase": "Failed" if code else "Succeeded", "containerStatuses": [ended]}}
    arguments = ["patch", "pod", pod, "--namespace", namespace, "--subresource", "status", "--type", "merge"]
    tools.kubectl(*arguments, "--patch", json.dumps(status))


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    """An API server of its own: here Helm brings the CRD."""
    with ApiServer.start(controllers=True) as running:
        for name in (NAMESPACE, *NAMESPACES):
            labels = {"pod-security.kubernetes.io/enforce": "restricted"}
            namespace = {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": labels},
            }
            Tools(running).apply(namespace)
        yield running


@pytest.fixture
def tools(api: ApiServer) -> Iterator[Tools]:
    """Tools for the API server, on which nothing is installed."""
    yield (ready := Tools(api))
    ready.helm("uninstall", "--ignore-not-found")
    ready.kubectl("delete", CRD, "--ignore-not-found")
    for namespace in NAMESPACES:
        ready.kubectl("delete", "jobs,pods,persistentvolumeclaims", "--all", "--namespace", namespace)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_whole_life_needs_no_other_right(tools: Tools, tmp_path: Path, scope: str) -> None:
    tools.helm("install", str(CHART), "--set", IMAGE, "--set", "networkPolicy.enabled=true", *SCOPES[scope])
    assert tools.names("networkpolicies", NAMESPACE) == [RELEASE]
    eventually(lambda: tools.names("pods", NAMESPACE))  # the namespace takes no pod that is not restricted
    with operator(tools, tmp_path) as running:
        for namespace in NAMESPACES:
            job = builders.job("tune", ttlSecondsAfterFinished=0)
            tools.apply(job | {"metadata": {"name": "tune", "namespace": namespace}})
        selector = "finetune.dev/job-name=tune"
        eventually(lambda: tools.names("pods", "team-a", selector))
        (checked,) = tools.names("jobs", "team-a", selector)
        (pod,) = tools.names("pods", "team-a", selector)
        finish(tools, "team-a", pod, 0, RunReport(exit_code=ExitCode.DONE, preflight=PreflightFindings()))
        eventually(lambda: len(tools.names("pods", "team-a", selector)) == 2)
        (name,) = set(tools.names("jobs", "team-a", selector)) - {checked}
        assert tools.names("configmaps", "team-a", selector) == []
        assert len(tools.names("persistentvolumeclaims", "team-a", selector)) == 1
        assert tools.names("events", "team-a")

        files = files_in(tools.get("job", name, "--namespace", "team-a")["spec"]["template"], None)
        assert report(running, "no-token", files["ca.crt"]) == 401

        (pod,) = set(tools.names("pods", "team-a", selector)) - {pod}
        finish(tools, "team-a", pod, 64)
        eventually(lambda: not tools.names("jobs,configmaps,pods", "team-a", selector))
        ended = tools.get("finetunejob", "tune", "--namespace", "team-a")
        assert ended["status"]["phase"] == "Failed"
        assert len(tools.names("persistentvolumeclaims", "team-a", selector)) == 1

        elsewhere = tools.names("jobs", "team-b", selector)
        assert bool(elsewhere) is (scope == "cluster")
        assert running.refusals() == []

        where, place = ("all namespaces", NAMESPACE) if scope == "cluster" else ("namespace team-a", "team-a")
        rights = ON_JOBS | ON_WORKLOADS | (ON_NODES if scope == "cluster" else set())
        assert selfcheck(running, scope) == (
            0,
            [
                "ok: the API server serves finetune.dev/v1alpha1",
                f"ok: pods reach the operator at {running.progress}",
                f"ok: the operator has its {len(rights)} rights in {where}",
                f"ok: a FineTuneJob, its claim and Job are accepted in namespace {place}",
            ],
        )
        assert "selfcheck" not in tools.names("finetunejobs", place)


def test_the_selfcheck_says_what_is_wrong(tools: Tools, tmp_path: Path) -> None:
    tools.helm("install", str(CHART), "--set", IMAGE)
    with operator(tools, tmp_path) as running:
        pass
    tools.kubectl("delete", "clusterrole", f"{RELEASE}-{NAMESPACE}")
    tools.kubectl("patch", "secret", f"{RELEASE}-tls", "-n", NAMESPACE, "--type=json", "--patch", NO_DATA)
    tools.kubectl("delete", CRD)
    eventually(lambda: "FAILED: the API" in selfcheck(running, "cluster")[1][0])
    code, (_, certificate, rights, tried) = selfcheck(running, "cluster")
    assert code == 1
    assert certificate.startswith(
        "FAILED: the Secret finetune-system/finetune-operator-tls has no certificate"
    )
    assert rights.startswith("FAILED: the operator may not create finetunejobs, get finetunejobs")
    assert tried.startswith(
        "FAILED: POST /apis/finetune.dev/v1alpha1/namespaces/finetune-system/finetunejobs"
    )


@pytest.mark.parametrize("way", ["--server-side=true", "--server-side=false"])
def test_certificate_and_jobs_survive_an_upgrade_and_jobs_an_uninstall(
    tools: Tools, tmp_path: Path, way: str
) -> None:
    """Server-side apply is Helm 4's way, the three-way merge in the client Helm 3's."""
    tools.helm("install", str(CHART), "--set", IMAGE, way)
    assert "data" not in secret(tools)
    tools.apply(builders.job("tune") | {"metadata": {"name": "tune", "namespace": "team-a"}})
    with operator(tools, tmp_path):
        made = secret(tools)["data"]
    assert set(made) == {"ca.crt", "tls.crt", "tls.key"}
    assert b"BEGIN CERTIFICATE" in base64.b64decode(made["tls.crt"])

    for setting in ("operator.workers=2", "operator.workers=3"):
        tools.helm("upgrade", str(CHART), "--set", IMAGE, "--set", setting, way)
        assert secret(tools)["data"] == made
    tools.helm("rollback", "1", way)
    assert secret(tools)["data"] == made
    with operator(tools, tmp_path) as running:
        assert secret(tools)["data"] == made
        assert running.refusals() == []

    tools.helm("uninstall")
    tools.kubectl("get", CRD)
    assert tools.names("finetunejobs", "team-a") == ["tune"]
    tools.helm("install", str(CHART), "--set", IMAGE, way)


def test_people_may_write_jobs_by_the_roles_of_the_cluster(tools: Tools) -> None:
    tools.helm("install", str(CHART), "--set", IMAGE)
    for role in ("edit", "view"):
        tools.kubectl("create", "rolebinding", role, "--clusterrole", role, "--user", role, "-n", "team-a")

    def may(user: str, verb: str) -> bool:
        command = ["auth", "can-i", verb, "finetunejobs", "--namespace", "team-a", "--as", user, "--quiet"]
        program = [str(binary("kubectl")), "--kubeconfig", str(tools.api.kubeconfig)]
        return subprocess.run([*program, *command], check=False, timeout=60).returncode == 0

    eventually(lambda: may("edit", "create"))
    eventually(lambda: may("view", "list"))
    assert not may("view", "create")
    assert not may("stranger", "list")


def secret(tools: Tools) -> Json:
    return tools.get("secret", f"{RELEASE}-tls", "--namespace", NAMESPACE)


def test_install_yaml_is_applied_again_without_a_change_and_kustomize_sets_the_images(
    tools: Tools, tmp_path: Path
) -> None:
    """By server-side and by client-side apply, whose annotation the CRD fits into. The operator's certificate stays."""
    shutil.copy(ROOT / "install.yaml", tmp_path)
    shutil.copy(ROOT / "examples/gitops/kustomize/operator/kustomization.yaml", tmp_path)
    try:
        for options in (["--server-side"], []):
            tools.kubectl("apply", "--filename", str(tmp_path / "install.yaml"), *options)
            certificate = [
                "--type=merge",
                "--patch",
                '{"data": {"tls.crt": "YQ=="}}',
                "--field-manager=operator",
            ]
            tools.kubectl("patch", "secret", f"{RELEASE}-tls", "--namespace", NAMESPACE, *certificate)
            tools.kubectl("diff", "--filename", str(tmp_path / "install.yaml"), *options)
        tools.kubectl("apply", "--server-side", "--kustomize", str(tmp_path), "--force-conflicts")
        assert secret(tools)["data"] == {"tls.crt": "YQ=="}
        deployment = tools.get("deployment", RELEASE, "--namespace", NAMESPACE)
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        images = {
            one["name"].rpartition("_")[0]: one["value"] for one in container["env"] if "IMAGE" in one["name"]
        }
        assert container["image"] == "registry.example/finetune-operator:0.1.0"
        assert images["FINETUNE_OPERATOR_TRAINER"] == "registry.example/finetune-trainer:0.1.0"
    finally:
        objects = (one for one in yaml.safe_load_all((tmp_path / "install.yaml").read_text()) if one)
        keep = [one for one in objects if one["kind"] != "Namespace"]
        (tmp_path / "delete.yaml").write_text(yaml.safe_dump_all(keep))
        tools.kubectl("delete", "--filename", str(tmp_path / "delete.yaml"), "--ignore-not-found")
