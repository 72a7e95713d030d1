"""The CLI on a real node: logs as they come, and a model that is copied from its claim and verified."""

from pathlib import Path

import pytest

from e2e.jobs import Jobs
from unit.cli.commands import Done, finetune

TRAINING = {"epochs": 1, "batchSize": 16}


@pytest.fixture
def trained(jobs: Jobs) -> str:
    """A job that has trained a tiny model."""
    name = "terminal"
    spec = {
        "model": {"uri": "pvc://demo/models/tiny"},
        "dataset": {"train": {"uri": "pvc://demo/data/few.jsonl"}},
        "objective": {"classification": {}},
        "training": TRAINING,
        "resources": {"gpusPerNode": 0},
    }
    jobs.apply(name, spec)
    return name


def cli(jobs: Jobs, command: str, *arguments: object) -> Done:
    return finetune(command, *arguments, "-n", jobs.namespace, "--kubeconfig", jobs.platform.kubeconfig)


def test_a_job_is_followed_its_log_read_and_its_model_copied(
    jobs: Jobs, trained: str, tmp_path: Path
) -> None:
    logs = cli(jobs, "logs", trained, "--follow")
    assert logs.code == 0, logs.err
    assert "── attempt 1, pod terminal-" in logs.out
    assert "evaluation at step" in logs.out
    assert cli(jobs, "wait", trained, "--timeout", "300").code == 0
    done = cli(jobs, "get-model", trained, tmp_path / "model")
    assert done.code == 0, done.err
    assert "verified, sha256:" in done.out
    assert (tmp_path / "model" / "model.safetensors").exists()
    left = jobs.platform.get("pods", "-n", jobs.namespace, "-l", "app.kubernetes.io/managed-by=finetune-cli")
    assert left["items"] == []
