"""Every object of the chart, of install.yaml and of the examples for GitOps fits the schema of its kind."""

import subprocess
from pathlib import Path

import pytest
import yaml

from chart.rendering import ALL, CHART, DEFAULTS, NAMESPACE, NAMESPACED, RELEASE, Json, helm
from deployment.schemas import kubeconform, write_schemas
from finetune_cluster.apiserver import ApiServer
from finetune_cluster.binaries import binary

ROOT = CHART.parents[1]
GITOPS = ROOT / "examples" / "gitops"
EXAMPLES = sorted([*GITOPS.glob("argocd/*.yaml"), *GITOPS.glob("flux/*.yaml")])
EVERYTHING = ALL | {key: DEFAULTS[key] for key in ("crds", "rbac", "policy", "progress")}
"""All values that are optional, and all objects."""
MATRIX = {"defaults": {}, "some namespaces": NAMESPACED, "all values": ALL, "all objects": EVERYTHING}


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schemas")
    with ApiServer.start() as server:
        write_schemas(server, folder)
    return folder


def rendered(values: Json) -> str:
    done = helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, values=values)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fits(schemas: Path, text: str) -> None:
    done = kubeconform(schemas, text)
    assert done.returncode == 0, done.stdout + done.stderr
    count = len([one for one in yaml.safe_load_all(text) if one])
    assert f"Valid: {count}, Invalid: 0, Errors: 0, Skipped: 0" in done.stdout


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_the_objects_of_the_chart(schemas: Path, values: Json) -> None:
    fits(schemas, rendered(values))


def test_the_matrix_has_every_kind_of_the_chart() -> None:
    texts = [rendered(values) for values in (EVERYTHING, NAMESPACED)]
    kinds = {one["kind"] for text in texts for one in yaml.safe_load_all(text) if one}
    lines = "".join(file.read_text() for file in (CHART / "templates").rglob("*.yaml")).splitlines()
    assert {line.removeprefix("kind: ") for line in lines if line.startswith("kind: ")} <= kinds


def test_install_yaml(schemas: Path) -> None:
    fits(schemas, (ROOT / "install.yaml").read_text())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_examples_for_controllers(schemas: Path, example: Path) -> None:
    fits(schemas, example.read_text())


@pytest.mark.parametrize("name", ["job", "run-2"])
def test_the_examples_for_kustomize(schemas: Path, name: str) -> None:
    command = [str(binary("kubectl")), "kustomize", str(GITOPS / "kustomize" / name)]
    fits(schemas, subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("replicas: 1", "replica: 1"),
        ("replicas: 1", "replicas: one"),
        ("runAsNonRoot: true", "runAsNonroot: true"),
        ("validationActions: [Deny]", "validationActions: Deny"),
    ],
)
def test_a_mistake_is_found(schemas: Path, old: str, new: str) -> None:
    text = rendered({})
    assert old in text
    assert kubeconform(schemas, text.replace(old, new)).returncode == 1
