"""Every example of a technique is trained as it stands, on a tiny model and rows of the kind that it names.

From the YAML through the operator's plan to the trainer: only the paths of the volumes are this machine's.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from builders import stored
from examples.materials import lay_out
from finetune_api.run import ExitCode, RunReport
from finetune_operator.plan.inputs import OUTPUT, run_config
from finetune_operator.reconcile import parse
from finetune_operator.settings import OperatorSettings
from unit.trainer.tiny import Job

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "techniques"
CLAIMS = "/mnt/claims/demo"
SETTINGS = OperatorSettings(trainer_image="example.test/trainer:1", simulate_gpus=True)


@pytest.fixture(scope="module")
def claim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The claim `demo`: models and data under the names that the examples use."""
    return lay_out(tmp_path_factory.mktemp("claim"))


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_example_trains(example: Path, claim: Path, tmp_path: Path) -> None:
    done = _here(example, claim, tmp_path)
    code = done.run_apart()
    report = RunReport.model_validate_json((tmp_path / "termination").read_text())
    assert code == ExitCode.DONE, f"{report.message}\n{done.log}"
    assert report.model is not None
    assert (tmp_path / "output").exists()


def _here(example: Path, claim: Path, folder: Path) -> Job:
    """The example's RunConfig with the volumes' paths replaced."""
    body: dict[str, Any] = YAML(typ="safe", pure=True).load(example.read_text())
    planned = run_config(parse(stored(body)), 1, SETTINGS).to_json()
    text = json.dumps(planned).replace(CLAIMS, str(claim)).replace(OUTPUT, str(folder / "output"))
    changes = {"metricsPort": 0, "terminationLog": str(folder / "termination")}
    return Job(folder, json.loads(text) | changes)
