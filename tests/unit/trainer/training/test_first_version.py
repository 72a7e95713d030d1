"""A run that the trainer of commit 18eac05 began, with its run.json and the checkpoint that it saved when it was asked
to stop: today's trainer continues it to its end.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.run import ExitCode
from unit.trainer.tiny import Job

GOLDEN = Path(__file__).parents[3] / "golden" / "run-first"


@pytest.fixture
def begun(tmp_path: Path) -> Job:
    """The run's second attempt, in a folder of the test."""
    folder = shutil.copytree(GOLDEN, tmp_path / "run")
    config = json.loads((folder / "run.json").read_text().replace("@", str(folder)))
    return Job(folder, config | {"job": config["job"] | {"attempt": 2}})


def step_of(begun: Job) -> int:
    (checkpoint,) = begun.checkpoint_dir.glob("step-*")
    return int(checkpoint.name.removeprefix("step-"))


def test_it_goes_on_from_its_checkpoint(begun: Job, make_job: Callable[..., Job]) -> None:
    saved = step_of(begun)
    assert saved >= 5
    assert begun.run_apart() == ExitCode.DONE, begun.log
    report = begun.report
    assert report.from_step == saved
    assert report.progress
    assert report.progress.step == report.progress.total_steps > saved
    assert f"step {saved}" in begun.log
    assert report.model
    assert (begun.model_dir / "model.safetensors").exists()
