"""`training.ema` on a real model and real reviews, without a cluster: its loss against that of the last weights."""

import json
from pathlib import Path
from statistics import mean

from finetune_api.run import ExitCode, RunReport
from unit.trainer.tiny import Job, write_jsonl

NOISY = {
    "epochs": 1,
    "batchSize": 4,
    "microBatchSize": 4,
    "precision": "Float32",
    "optimizer": {"learningRate": 3e-4},
    "schedule": {"name": "Constant"},
    "evaluation": {"every": {"steps": 15}},
    "ema": {},
}
"""150 steps at a constant rate, six times the default, in small batches."""


def test_wherever_a_noisy_run_ended_its_average_would_have_the_smaller_loss_on_average(
    materials: Path, tmp_path: Path
) -> None:
    """Over the evaluations of the second half: one end alone may be a lucky one for the last weights."""
    text = (materials / "data" / "movie-reviews.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    train = write_jsonl(tmp_path / "train.jsonl", rows[:600])
    validation = write_jsonl(tmp_path / "validation.jsonl", rows[-200:])
    config = {
        "job": {"name": "noisy"},
        "model": {
            "path": str(materials / "models" / "minilm"),
            "freeze": {"embeddings": True, "layers": 4},
        },
        "dataset": {
            "train": {"path": str(train)},
            "validation": {"path": str(validation)},
            "preprocessing": {"maxLength": 48},
        },
        "objective": {"classification": {}},
        "training": NOISY,
        "output": {f"{name}Dir": str(tmp_path / "out" / name) for name in ("model", "staging", "checkpoint")},
        "terminationLog": str(tmp_path / "termination"),
    }
    made = Job(tmp_path, config)
    assert made.run_apart() == ExitCode.DONE, made.log
    record = json.loads((tmp_path / "out" / "model" / "run.json").read_text())
    late = RunReport.model_validate(record["report"]).epochs[-6:]
    assert [epoch.step for epoch in late] == [75, 90, 105, 120, 135, 150]
    averaged, trained = (mean(epoch.metrics[f"{one}_loss"] for epoch in late) for one in ("ema", "trained"))
    assert averaged < 0.98 * trained
