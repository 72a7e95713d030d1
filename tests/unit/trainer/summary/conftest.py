"""A search that has ended, on disk: the model of its best trial, and run.json of its summary."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_api.run import ExitCode, RunReport
from finetune_trainer.publishing.folder import SUMS
from unit.trainer.summary.searches import searched, trial
from unit.trainer.tiny import job, merged, reviews

JOB = {"name": "tune", "namespace": "team", "uid": "1c9d2f7a-0000"}


@dataclass
class Ended:
    """A search whose trials 1, 2 and 3 have models in `trials`; the second is the best."""

    folder: Path
    config: dict[str, Any]

    @property
    def trials(self) -> Path:
        return self.folder / "trials"

    @property
    def model_dir(self) -> Path:
        return self.folder / "model"

    @property
    def report_dir(self) -> Path:
        return self.folder / "report"

    @property
    def report(self) -> RunReport:
        return RunReport.model_validate_json((self.folder / "termination").read_text())

    def changed(self, **changes: Any) -> "Ended":
        return Ended(self.folder, merged(self.config, changes))

    def write(self) -> Path:
        path = self.folder / "run.json"
        path.write_text(json.dumps(self.config))
        return path

    def run(self, attempt: int = 1) -> int:
        """Run in this process; returns the exit code."""
        from finetune_trainer.__main__ import main

        return main([str(self.write()), "--set", f"job.attempt={attempt}"])


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """The model of a trial."""
    folder = tmp_path_factory.mktemp("trial")
    identity = {"name": trial(2)["name"], "namespace": "team", "uid": "trial-2"}
    made = job(folder, model_folder, reviews(64), job=identity, output={"uri": "pvc://models/trials/t002"})
    assert made.run() == ExitCode.DONE, made.report.message
    return made.model_dir


@pytest.fixture
def ended(tmp_path: Path, trained: Path) -> Ended:
    """A search; the models of the other trials have a weight less than its best one, to distinguish them."""
    for number in (1, 2, 3):
        shutil.copytree(trained, tmp_path / "trials" / f"t{number:03}")
    for number in (1, 3):
        _rename(tmp_path / "trials" / f"t{number:03}", trial(number)["name"])
    sums = tmp_path / "trials" / "t002" / SUMS
    from finetune_trainer.files import sha256

    config = {
        "kind": "SummaryConfig",
        "job": JOB,
        "search": searched(trial(1, 0.7), trial(2, 0.9), trial(3, 0.8), reportDir=str(tmp_path / "report")),
        "model": {
            "path": str(sums.parent),
            "uri": "pvc://models/trials/t002",
            "digest": f"sha256:{sha256(sums)}",
        },
        "output": {
            "modelDir": str(tmp_path / "model"),
            "stagingDir": str(tmp_path / ".finetune" / JOB["uid"] / "model"),
            "uri": "pvc://models/tune",
        },
        "terminationLog": str(tmp_path / "termination"),
    }
    return Ended(tmp_path, config)


def _rename(folder: Path, name: str) -> None:
    """Make the model that of another trial."""
    record = json.loads((folder / "run.json").read_text())
    record["job"] |= {"name": name}
    (folder / "run.json").write_text(json.dumps(record))
