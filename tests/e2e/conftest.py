"""One real cluster for all end-to-end tests: started if none runs, and then removed at the end."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.jobs import Jobs
from e2e.tiny_model import save_tiny_model
from finetune_cluster.choice import chosen_cluster
from finetune_cluster.errors import ClusterError
from finetune_demo.materials import prepare
from finetune_demo.platform import Platform

NAMESPACE = "e2e"
_CLAIMS = 48
"""At least as many as the jobs of all tests make. Volumes of an earlier namespace are free only after its end."""
_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="session")
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """A cluster with the operator installed. Its progress is shown: on a new machine it builds for some minutes."""
    cluster = chosen_cluster()
    was_running = _runs(cluster)
    try:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            cluster.up()
            platform = Platform(cluster.kubeconfig, cluster.images())
            platform.install_operator("defaults.output.size=1Gi")
        yield platform
    finally:
        if not was_running and not os.environ.get("KEEP_CLUSTER"):
            cluster.down()


def _runs(cluster: object) -> bool:
    with contextlib.suppress(ClusterError):
        return bool(cluster.kubeconfig)  # type: ignore[attr-defined]
    return False


@pytest.fixture(scope="session")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model and reviews, a tiny model, broken data and the scripts, as they lie on the claim."""
    folder = tmp_path_factory.mktemp("materials")
    prepare(folder)
    save_tiny_model(folder / "models" / "minilm", folder / "models" / "tiny")
    rows = (folder / "data" / "movie-reviews.jsonl").read_text().splitlines()
    (folder / "data" / "few.jsonl").write_text("\n".join(rows[:400]) + "\n")
    (folder / "data" / "broken.jsonl").write_text(
        "\n".join([*rows[:6], '{"text": "no end', *rows[6:20]]) + "\n"
    )
    scripts = folder / "scripts"
    scripts.mkdir()
    example = Path(__file__).resolve().parents[2] / "examples" / "own-script" / "train.py"
    ours = (Path(__file__).with_name(name) for name in ("library_script.py", "world_script.py"))
    for script in (example, *ours):
        (scripts / script.name).write_text(script.read_text())
    return folder


@pytest.fixture(scope="session")
def jobs(platform: Platform, materials: Path) -> Iterator[Jobs]:
    """A namespace under the restricted Pod Security Standard, with the materials on the claim `demo`."""
    _delete_namespace(platform, "--timeout=300s")
    chosen_cluster().volumes(_CLAIMS)
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": _RESTRICTED},
    }
    platform.apply(namespace)
    platform.make_claim(NAMESPACE, "demo")
    platform.copy_in(NAMESPACE, "demo", materials)
    yield Jobs(platform, NAMESPACE)
    _delete_namespace(platform, "--wait=false")


def _delete_namespace(platform: Platform, waiting: str) -> None:
    with contextlib.suppress(ClusterError):
        platform.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", waiting)
