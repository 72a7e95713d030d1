"""Every example of a technique trains: its model and training on the tiny model, for two steps."""

import pytest

from bench.techniques import TECHNIQUES, read_example, run_config
from finetune_api.run import ExitCode
from unit.trainer.tiny import Job, reviews, write_jsonl


@pytest.mark.parametrize("name", TECHNIQUES)
def test_an_example_of_a_technique_trains(tmp_path, model_folder, name):
    write_jsonl(tmp_path / "train.jsonl", reviews(40))
    write_jsonl(tmp_path / "test.jsonl", reviews(10, start=500))
    config = run_config(read_example(name), model_folder, tmp_path, tmp_path / "out", 2)
    if "freeze" in config["model"]:
        config["model"]["freeze"]["layers"] = 2  # the tiny model has no more
    config["training"]["microBatchSize"] = 8
    made = Job(tmp_path, config | {"terminationLog": str(tmp_path / "termination")})
    assert made.run() == ExitCode.DONE
    assert made.report.model.metrics["test_accuracy"] >= 0
