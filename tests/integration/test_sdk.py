"""The Python API against a real API server and the real operator: its page and its notebook run as they stand."""

import contextlib
import io
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from ruamel.yaml import YAML

from builders import spec
from finetune_api.run import RunReport
from finetune_api.status import EpochStatus, Phase
from finetune_cluster.apiserver import ApiServer
from finetune_sdk import Client, FineTuneJob
from finetune_sdk.errors import (
    ClusterError,
    ConflictError,
    JobFailedError,
    NotFoundError,
    RefusedError,
    WaitTimeoutError,
)
from integration.operator_rig import DONE, Operator, Rest, World, serving

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "sdk.md"
NOTEBOOK = ROOT / "examples" / "notebook" / "finetune.ipynb"
CPU = {"gpusPerNode": 0}
EPOCHS = [
    EpochStatus(step=50 * number, epoch=number, train_loss=1 / number, eval_loss=1.1 / number)
    for number in (1, 2)
]


@pytest.fixture(scope="module")
def operator(cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with serving(cluster, tmp_path_factory.mktemp("operator"), "notebook", retry_backoff=0.1) as started:
        yield started


@pytest.fixture
def world(operator: Operator, rest: Rest) -> World:
    assert operator.alive
    return World(rest, "notebook")


@pytest.fixture
def kubeconfig(cluster: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That of the cluster, with the namespace of these tests."""
    config = YAML(typ="safe").load(cluster.kubeconfig.read_text())
    config["contexts"][0]["context"]["namespace"] = "notebook"
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(file))
    return file


@contextlib.contextmanager
def kubelet(world: World, name: str) -> Iterator[None]:
    """Runs the pod of a job that is created meanwhile, and lets it succeed."""
    faults: list[BaseException] = []

    def work() -> None:
        try:
            pod = world.run(name)
            world.until_phase(name, "Running")
            world.succeed(pod, DONE.model_copy(update={"epochs": EPOCHS}))
        except BaseException as error:  # noqa: BLE001 - raised where the test waits
            faults.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not faults, faults


def test_the_page_runs_as_it_stands(world: World, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    out = io.StringIO()
    with kubelet(world, "movie-sentiment-sdk"), contextlib.redirect_stdout(out):
        for number, block in enumerate(blocks):
            if "IPython" not in block:
                exec(compile(block, f"{PAGE.name}, block {number + 1}", "exec"), names)
    assert len(blocks) == 5
    assert "spec.training.epoch: unknown field; did you mean spec.training.epochs?" in out.getvalue()
    assert "Succeeded the model is at pvc://movie-sentiment-sdk-" in out.getvalue()
    assert "2.0 0.5 0.55" in out.getvalue()


def test_the_notebook_runs_as_it_stands(
    world: World, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(cell.get("outputs", []) == [] for cell in notebook.cells)
    with kubelet(world, "notebook-sentiment"):
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert "<svg" in outputs
    assert "epoch 2: train loss 0.500, eval loss 0.550" in outputs
    assert "pvc://notebook-sentiment-" in outputs


def test_a_failure_and_a_time_out_are_errors(world: World, kubeconfig: Path) -> None:
    client = Client()
    job = client.submit(FineTuneJob("fails", **spec(resources=CPU)))
    with pytest.raises(WaitTimeoutError, match="fails has not finished after 0 s"):
        job.wait(timeout=0)
    report = RunReport(exit_code=72, message="NaN loss at step 3")
    world.end(world.run("fails"), 72, report.model_dump_json(by_alias=True, exclude_none=True))
    with pytest.raises(JobFailedError, match=r"fails failed \(Diverged\): NaN loss at step 3") as caught:
        job.wait()
    assert caught.value.reason == "Diverged"
    assert (job.phase, job.exit_code) == (Phase.FAILED, 72)


def test_a_job_is_suspended_resumed_and_deleted(world: World, kubeconfig: Path) -> None:
    client = Client()
    job = client.submit(FineTuneJob("paused", **spec(resources=CPU)))
    pod = world.run("paused")
    world.until_phase("paused", "Running")
    job.suspend()
    world.obey(pod)
    world.until_phase("paused", "Suspended")
    assert job.refresh().phase is Phase.SUSPENDED
    job.resume()
    world.pod("paused", 2)
    job.delete()
    with pytest.raises(NotFoundError, match="paused not found in namespace notebook"):
        client.get("paused")


def test_the_same_job_again_changes_nothing_and_another_spec_is_refused(
    world: World, kubeconfig: Path
) -> None:
    client = Client()
    first = client.submit(FineTuneJob("twice", **spec(resources=CPU)))
    assert client.submit(FineTuneJob("twice", **spec(resources=CPU))).uid == first.uid
    with pytest.raises((RefusedError, ConflictError), match="cannot be changed after creation"):
        client.submit(FineTuneJob("twice", **spec(resources=CPU, training={"epochs": 1})))


def test_a_command_in_a_pod_that_cannot_run_is_a_sentence(world: World, kubeconfig: Path) -> None:
    client = Client()
    client.submit(FineTuneJob("unreachable", **spec(resources=CPU)))
    pod = world.run("unreachable")
    for name, said in {pod: "node-1", "nothing": 'pods "nothing" not found'}.items():
        with pytest.raises(ClusterError, match=said), client.cluster.execute("notebook", name, ["true"]):
            pass
