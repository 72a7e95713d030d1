"""What normalised targets and Huber's loss change: a tiny BERT learns numbers near 100, with and without outliers.

    PYTHONPATH=api:operator:trainer-image:cli:tests python -m bench.regression_effect

Prints the RMSE on 100 undisturbed test rows; half a minute on one core.
"""

import tempfile
from pathlib import Path
from typing import Any

from unit.trainer.tiny import build_model, job, reviews, write_jsonl

OBJECTIVES: dict[str, dict[str, Any]] = {
    "Squared": {},
    "Squared, normalize": {"normalize": True},
    "Huber": {"loss": "Huber"},
    "Huber, normalize": {"loss": "Huber", "normalize": True},
}


def rows(count: int, start: int, wrong_every: int = 0) -> list[dict[str, Any]]:
    """Numbers of mean 100 and deviation 6; every so many is 400 instead."""
    made = [dict(row, y=100.0 + 3 * row["rating"]) for row in reviews(count, start=start)]
    for number in range(0, count, wrong_every) if wrong_every else ():
        made[number]["y"] = 400.0
    return made


def rmse(folder: Path, base: Path, options: dict[str, Any], wrong_every: int) -> float:
    """Error on the test rows after six epochs on 150 rows."""
    test = write_jsonl(folder.parent / "test.jsonl", rows(100, start=900))
    made = job(folder, base, rows(200, start=0, wrong_every=wrong_every), objective={"regression": options})
    made = made.changed(
        {
            "dataset": {"columns": {"label": "y"}, "test": {"path": str(test)}},
            "training": {"epochs": 6, "batchSize": 16, "microBatchSize": 16},
            "model": {"dropout": 0.0},
        }
    )
    assert made.run_apart() == 0, made.log
    assert made.report.model is not None
    return made.report.model.metrics["test_rmse"]


def main() -> None:
    """A line for each loss: without outliers, and with one row in twenty wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = build_model(folder / "model")
        for kind, options in OBJECTIVES.items():
            found = [rmse(folder / f"{kind}-{every}", base, options, every) for every in (0, 20)]
            print(f"{kind:20} {found[0]:7.1f} {found[1]:7.1f}")


if __name__ == "__main__":
    main()
