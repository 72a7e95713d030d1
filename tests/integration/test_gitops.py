"""What GitOps controllers, pipelines and people see of a job that they applied: no difference, and its end."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from builders import job
from finetune_cluster.apiserver import ApiServer
from finetune_cluster.binaries import binary
from integration.operator_rig import PATIENCE, ROOT, Json, Operator, Rest, World, serving, shared_server
from integration.pages import commands, shell
from integration.test_apply_again import CLIENT, SERVER, TAKEN_OVER
from integration.test_operator_search import BATCHES, concluded, train, until_trials

NAMESPACE = "gitops"
DIFF = ("diff", "-f", "-")
DIFFS = (
    DIFF,
    (*DIFF, "--server-side"),
    (*DIFF, "--server-side", "--field-manager=argocd-controller", "--force-conflicts"),
)
# `kubectl diff --server-side` shows the annotation of an earlier client-side apply, of any object
WAYS = {
    "client": (CLIENT,),
    "server": (SERVER,),
    "taken-over": (CLIENT, TAKEN_OVER),
    "two-managers": (SERVER, (*SERVER, "--field-manager=flux")),
}
Kubectl = Callable[[tuple[str, ...], Json], str]


@pytest.fixture(scope="module")
def api() -> ApiServer:
    return shared_server()


@pytest.fixture(scope="module")
def operator(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with serving(api, tmp_path_factory.mktemp("operator"), NAMESPACE, retry_backoff=0.1) as started:
        yield started


@pytest.fixture
def world(operator: Operator, api: ApiServer) -> World:
    assert operator.alive, operator.log()
    return World(Rest(api), NAMESPACE)


@pytest.fixture(scope="module")
def kubectl(api: ApiServer) -> Kubectl:
    """Run kubectl with a file, which has to succeed; what it prints. `kubectl diff` succeeds without a difference."""
    program = [str(binary("kubectl")), "--kubeconfig", str(api.kubeconfig), "--namespace", NAMESPACE]

    def run(command: tuple[str, ...], written: Json) -> str:
        done = subprocess.run(
            [*program, *command],
            input=yaml.safe_dump(written),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    return run


def no_difference(kubectl: Kubectl, written: Json, diffs: tuple[tuple[str, ...], ...] = DIFFS) -> None:
    for diff in diffs:
        assert kubectl(diff, written) == ""


@pytest.mark.parametrize("way", WAYS)
def test_a_job_differs_from_its_file_at_no_time_of_its_life(world: World, kubectl: Kubectl, way: str) -> None:
    written = job(way, resources={"gpusPerNode": 0}, ttlSecondsAfterFinished=0)
    diffs = DIFFS[:1] if way == "client" else DIFFS
    for command in WAYS[way]:
        kubectl(command, written)
    no_difference(kubectl, written, diffs)
    pod = world.run(way)
    world.until_phase(way, "Running")
    no_difference(kubectl, written, diffs)
    world.succeed(pod)
    world.until_phase(way, "Succeeded")
    no_difference(kubectl, written, diffs)
    for command in WAYS[way]:
        kubectl(command, written)
    assert world.job(way)["metadata"]["generation"] == 1
    assert world.status(way)["phase"] == "Succeeded", "it does not train again"


def test_a_suspended_and_a_failed_job_do_not_differ(world: World, kubectl: Kubectl) -> None:
    written = job("ends-badly", resources={"gpusPerNode": 0}, suspend=True)
    kubectl(SERVER, written)
    world.until_phase("ends-badly", "Suspended")
    no_difference(kubectl, written)
    written["spec"]["suspend"] = False
    kubectl(SERVER, written)
    world.end(world.run("ends-badly"), 65, "row 7 is not JSON")
    world.until_phase("ends-badly", "Failed")
    no_difference(kubectl, written)


def test_a_search_and_its_trials_do_not_differ(world: World, kubectl: Kubectl) -> None:
    of = {"algorithm": "Grid", "parameters": [BATCHES | {"choice": [16, 32]}]}
    written = job("search", resources={"gpusPerNode": 0}, search=of)
    kubectl(SERVER, written)
    for count in (1, 2):
        train(world, until_trials(world, "search", count)[-1])
        no_difference(kubectl, written)
    concluded(world, "search")
    no_difference(kubectl, written)


def test_a_difference_is_found(world: World, kubectl: Kubectl) -> None:
    written = job("changed", suspend=True)
    kubectl(SERVER, written)
    written["spec"]["suspend"] = False
    for diff in DIFFS:
        with pytest.raises(AssertionError, match=r"-  suspend: true\s+\+  suspend: false"):
            kubectl(diff, written)


EXAMPLES = ROOT / "examples" / "gitops" / "kustomize"


def test_a_new_run_is_a_new_name_and_leaves_the_first_alone(world: World, kubectl: Kubectl) -> None:
    def built(name: str) -> Json:
        done = subprocess.run(
            [str(binary("kubectl")), "kustomize", str(EXAMPLES / name)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        found: Json = yaml.safe_load(done.stdout)
        return found | {"metadata": {"name": found["metadata"]["name"]}}

    first, second = built("job"), built("run-2")
    first["spec"]["resources"] = second["spec"]["resources"] = {"gpusPerNode": 0}
    kubectl(SERVER, first)
    world.succeed(world.run("movie-sentiment"))
    status = world.until_phase("movie-sentiment", "Succeeded")
    kubectl(SERVER, second)
    kubectl(SERVER, first)
    world.run("movie-sentiment-2")
    assert world.status("movie-sentiment") == status
    assert len(world.children("movie-sentiment")) == 1
    assert [one["spec"].get("training") for one in (first, second)] == [None, {"epochs": 3}]


def start(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said


@pytest.mark.parametrize("code", [0, 65])
def test_kubectl_wait_ends_with_the_job(world: World, api: ApiServer, code: int) -> None:
    name = world.apply()
    program = [str(binary("kubectl")), "--kubeconfig", str(api.kubeconfig), "--namespace", NAMESPACE]
    wait = start([*program, "wait", f"ftj/{name}", "--for=condition=Finished", "--timeout=60s"])
    pod = world.run(name)
    world.until_phase(name, "Running")
    assert wait.poll() is None
    world.succeed(pod) if code == 0 else world.end(pod, code)
    assert ended(wait) == (0, f"finetunejob.finetune.dev/{name} condition met\n")


@pytest.mark.parametrize("code", [0, 65])
def test_helm_waits_for_the_job_of_a_chart(world: World, api: ApiServer, tmp_path: Path, code: int) -> None:
    """Helm 4; the wait of Helm 3 ignores custom resources."""
    name = f"in-a-chart-{code}"
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("{apiVersion: v2, name: training, version: 0.1.0}")
    (tmp_path / "templates" / "job.yaml").write_text(json.dumps(job(name, resources={"gpusPerNode": 0})))
    program = [str(binary("helm")), "--kubeconfig", str(api.kubeconfig), "--namespace", NAMESPACE]
    helm = start([*program, "install", name, str(tmp_path), "--wait", "--timeout=60s"])
    pod = world.run(name)
    world.until_phase(name, "Running")
    assert helm.poll() is None
    world.succeed(pod) if code == 0 else world.end(pod, code)
    returned, said = ended(helm)
    assert (returned == 0) is (code == 0), said
    assert ("status: Failed" if code else "STATUS: deployed") in said


def test_the_health_check_is_merged_into_the_settings_of_argo_cd(api: ApiServer, tmp_path: Path) -> None:
    rest, path = Rest(api), "/api/v1/namespaces/argocd/configmaps"
    rest("POST", "/api/v1/namespaces", {"metadata": {"name": "argocd"}})
    rest("POST", path, {"metadata": {"name": "argocd-cm"}, "data": {"url": "https://argocd.example"}})
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for command in commands("gitops.md", "argocd-cm"):
        shell(command, api.kubeconfig, tmp_path)
    assert set(rest("GET", f"{path}/argocd-cm")["data"]) == {
        "url",
        "resource.customizations.health.finetune.dev_FineTuneJob",
    }
