"""The examples of the objectives train on tiny data whose columns they name."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.run import ExitCode
from unit.trainer.architectures import build

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "techniques"


@pytest.mark.parametrize("name", ["multi-label", "token-classification", "causal-lm", "regression-huber"])
def test_an_example_trains(make_job, tmp_path, name):
    document = YAML(typ="safe", pure=True).load((EXAMPLES / f"{name}.yaml").read_text())
    spec = FineTuneJobSpec.from_json(document["spec"]).to_json()
    training = {**spec["training"], "epochs": None, "maxSteps": 2, "precision": "Float32"}
    made = make_job(
        objective=spec["objective"], dataset={"columns": spec["dataset"]["columns"]}, training=training
    )
    if name == "causal-lm":
        made = made.changed({"model": {"path": str(build("llama", tmp_path / "llama"))}})
    assert made.run() == ExitCode.DONE
    evaluation = spec["training"]["evaluation"]
    assert set(made.report.epochs[-1].metrics) == set(evaluation["metrics"])
