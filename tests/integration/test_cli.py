"""The CLI against a real API server and the real operator: what it says is what happens."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from builders import job
from finetune_api.run import RunReport
from finetune_api.status import EpochStatus, ProgressStatus
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import (
    DONE,
    Operator,
    Rest,
    World,
    make_namespace,
    serving,
    until,
)
from unit.cli.commands import Done, finetune

CPU = {"gpusPerNode": 0}


@pytest.fixture(scope="module")
def operator(cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with serving(cluster, tmp_path_factory.mktemp("operator"), "terminal", retry_backoff=0.1) as started:
        yield started


@pytest.fixture
def world(operator: Operator, cluster: ApiServer, rest: Rest, monkeypatch: pytest.MonkeyPatch) -> World:
    assert operator.alive
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    return World(rest, "terminal")


def cli(command: str, *arguments: Any) -> Done:
    return finetune(command, *arguments, "-n", "terminal")


def written(folder: Path, name: str, **spec: Any) -> Path:
    file = folder / "job.yaml"
    with file.open("w") as out:
        YAML().dump(job(name, **({"resources": CPU} | spec)), out)
    return file


def started(cluster: ApiServer, *arguments: str) -> "subprocess.Popen[str]":
    """A command that runs beside the test."""
    command = [sys.executable, "-m", "finetune_cli.main", *arguments, "-n", "terminal"]
    command += ["--kubeconfig", str(cluster.kubeconfig)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_run_applies_a_job_and_follows_it_to_its_end(
    world: World, cluster: ApiServer, tmp_path: Path
) -> None:
    process = started(cluster, "run", str(written(tmp_path, "followed")))
    pod = world.run("followed")
    assert process.stdout
    shown = ""
    while "attempt 1 trains on node node-1" not in shown:
        line = process.stdout.readline()
        assert line, shown
        shown += line
    epochs = [EpochStatus(step=50, epoch=1.0, train_loss=0.5, eval_loss=0.4)]
    world.succeed(pod, DONE.model_copy(update={"epochs": epochs}))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "train loss 0.5000  eval loss 0.4000" in out
    assert "Succeeded: the model is at pvc://followed-" in out
    assert cli("run", tmp_path / "job.yaml").code == 0  # the same job again changes nothing
    again = cli("run", written(tmp_path, "followed", training={"epochs": 9}))
    assert again.code == 4
    assert "cannot be changed after creation; create a new FineTuneJob" in again.err
    waited = cli("wait", "followed")
    assert (waited.code, waited.err) == (0, "")
    assert cli("suspend", "followed").code == cli("resume", "followed").code == 1
    curve = cli("plot", "followed").out
    assert "train loss" in curve
    assert "eval loss" in curve


def test_a_failure_is_explained_with_its_exit_code(world: World) -> None:
    name = world.apply()
    pod = world.run(name)
    report = RunReport(exit_code=65, message="rows.jsonl, row 7, column label: null")
    world.end(pod, 65, report.model_dump_json(by_alias=True, exclude_none=True))
    done = cli("wait", name)
    assert (done.code, done.out) == (65, "")
    found = json.loads(cli("explain-failure", name, "-o", "json").out)
    assert (found["reason"], found["exitCode"], found["message"]) == ("DataError", 65, report.message)
    assert "dataset.maxInvalidRows" in found["remedy"]
    text = cli("explain-failure", name).out
    assert "what to do: fix the row" in text
    assert "docs/troubleshooting.md#failed" in text
    world.remove(pod)
    uid = world.job(name)["metadata"]["uid"]
    claim = world.status(name)["effective"]["outputUri"].removeprefix("pvc://").partition("/")[0]
    kept = f"the end of its log is on the claim {claim} in .finetune/{uid}/logs/attempt-1.log"
    assert (
        f"attempt 1: its pod is gone; {kept}, for a pod that mounts the claim. It ended with DataError:"
        in (cli("logs", name).out)
    )
    assert "its log with it" in cli("explain-failure", name).out


def test_a_job_that_waits_for_a_claim_is_explained(world: World) -> None:
    name = world.apply(model={"uri": "pvc://nowhere/m"})
    pod = world.pod(name)
    world.unschedulable(pod, "0/1 nodes")
    world.until_reason(name, "MissingObject")
    done = cli("explain-failure", name)
    assert done.code == 0
    assert "create the claim, ConfigMap, Secret or key" in done.out


def test_nothing_is_explained_of_a_job_that_runs(world: World) -> None:
    name = world.apply()
    world.run(name)
    world.until_phase(name, "Running")
    done = cli("explain-failure", name)
    assert (done.code, done.out) == (1, "")
    assert "attempt 1 trains on node node-1" in done.err


def test_suspend_and_resume(world: World) -> None:
    name = world.apply()
    pod = world.run(name)
    world.until_phase(name, "Running")
    assert cli("suspend", name).code == 0
    world.obey(pod)
    world.until_phase(name, "Suspended")
    assert cli("resume", name).code == 0
    world.succeed(world.run(name, attempt=2))
    world.until_phase(name, "Succeeded")
    tree = cli("status", name).out
    assert "attempt 1: Suspended (exit code 75) on node-1" in tree
    assert "attempt 2: Succeeded on node-1" in tree


def test_logs_follow_over_attempts(world: World, cluster: ApiServer) -> None:
    name = world.apply()
    process = started(cluster, "logs", name, "--follow")
    first = world.run(name)
    world.until_phase(name, "Running")
    world.end(first, 70)
    second = world.run(name, attempt=2)
    world.succeed(second)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert [line.partition(",")[0] for line in out.splitlines() if ", pod " in line] == [
        "── attempt 1",
        "── attempt 2",
    ]
    assert out.count("── no log of") == 2  # there is no kubelet


def test_the_tree_of_a_search_has_its_trials(world: World) -> None:
    search = {
        "algorithm": "Grid",
        "parallelism": 2,
        "parameters": [{"path": "training.batchSize", "choice": [8, 16]}],
    }
    world.apply("tuned", search=search)
    trials = until(
        lambda: (
            (found := [one["name"] for one in _bodies() if one["name"].startswith("tuned-")])[1:] and found
        ),
        "both trials are there",
    )
    for trial in sorted(trials):
        progress = ProgressStatus(step=10, total_steps=10, percent=100)
        world.succeed(world.run(trial), DONE.model_copy(update={"progress": progress}))
    for trial in trials:
        world.until_phase(trial, "Succeeded")
    tree = cli("status", "tuned").out
    assert all(trial in tree for trial in trials)
    assert tree.count("attempt 1: Succeeded on node-1") == 2
    table = cli("status").out
    assert "tuned" in table
    assert trials[0] not in table


def _bodies() -> list[dict[str, Any]]:
    return [one["metadata"] for one in json.loads(cli("status", "-o", "json").out)["items"]]


def test_names_and_namespaces_that_are_not_there(world: World, rest: Rest) -> None:
    make_namespace(rest, "elsewhere", inputs=False)
    World(rest, "elsewhere").apply("stray-job")
    world.apply("near-job")
    assert "did you mean near-job?" in cli("status", "near-jbo").err
    assert "it is in elsewhere: write --namespace elsewhere" in cli("wait", "stray-job").err
    assert cli("status", "near-jbo").code == 2


def test_who_may_not_is_told_what(world: World, cluster: ApiServer, rest: Rest, tmp_path: Path) -> None:
    rest("POST", world.at("/api/v1/namespaces/{}/serviceaccounts"), {"metadata": {"name": "guest"}})
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 600},
    }
    path = world.at("/api/v1/namespaces/{}/serviceaccounts/guest/token")
    token = rest("POST", path, request)["status"]["token"]
    config = YAML(typ="safe").load(cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    file = tmp_path / "config"
    file.write_text(json.dumps(config))
    done = cli("status", "x", "--kubeconfig", file)
    assert done.code == 4
    assert done.err.startswith("your credentials of context")
    assert 'cannot get resource "finetunejobs"' in done.err
