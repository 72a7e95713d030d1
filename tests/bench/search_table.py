"""Trains every configuration of a small grid with several seeds, and keeps the curves: the table that searches replay.

    OMP_NUM_THREADS=1 nice python tests/bench/search_table.py [--table FILE] [--folder FOLDER]

MiniLM's embeddings, which stay frozen, and its first two layers on 600 movie snippets, evaluated after each of nine
epochs on 800 others. A seed decides the head's first weights, the order of the rows and dropout; the rows are always
the same. All runs are in this process and on one thread, so that torch is imported once and CPU seconds can be
compared. Every finished run is one line of the table: a bench that was broken off goes on where it was.
"""

import argparse
import contextlib
import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("api", "trainer-image", "demo", "tests")]

from bench.materials import movie_classes, split  # noqa: E402
from bench.search_grid import EPOCHS, GRID, SEEDS, TABLE, Curve, Values, read_table  # noqa: E402
from bench.trainer_runs import write_rows  # noqa: E402
from finetune_api.overrides import overridden  # noqa: E402
from finetune_api.run import RunConfig  # noqa: E402
from finetune_demo import materials  # noqa: E402

TRAIN_ROWS, VALIDATION_ROWS, LAYERS, MAX_LENGTH = 600, 800, 2, 24


class Clock(logging.Handler):
    """CPU seconds of this process at each evaluation that the trainer logs."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.process_time()
        self.seconds: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note the time of an evaluation."""
        if getattr(record, "facts", {}).get("event") == "evaluation":
            self.seconds.append(time.process_time() - self.began)


def prepare(folder: Path) -> None:
    """Write the rows and the model, which is MiniLM without its upper layers."""
    if (folder / "model" / "config.json").exists():
        return
    from transformers import AutoModel

    train, others = split(movie_classes())
    write_rows(folder / "train.jsonl", train[:TRAIN_ROWS])
    write_rows(folder / "validation.jsonl", others[:VALIDATION_ROWS])
    materials.write_model(materials.fetch(materials.cache_folder())[0], folder / "model")
    model = AutoModel.from_pretrained(folder / "model", num_hidden_layers=LAYERS)
    model.save_pretrained(folder / "model")


def run_config(folder: Path, values: Values, seed: int) -> dict[str, Any]:
    """The RunConfig of a run."""
    base: dict[str, Any] = {
        "job": {"name": "bench"},
        "model": {"path": str(folder / "model"), "freeze": {"embeddings": True}},
        "dataset": {
            "train": {"path": str(folder / "train.jsonl")},
            "validation": {"path": str(folder / "validation.jsonl")},
            "preprocessing": {"maxLength": MAX_LENGTH},
        },
        "objective": {"classification": {}},
        "training": {
            "epochs": EPOCHS,
            "seed": seed,
            "evaluation": {"metrics": ["accuracy"], "bestMetric": "accuracy"},
            "checkpoint": {"every": {"minutes": 1000}},
        },
        "output": {
            "modelDir": str(folder / "run" / "model"),
            "stagingDir": str(folder / "run" / "staging"),
            "checkpointDir": str(folder / "run" / "checkpoints"),
            "tokenDir": str(folder / "tokens"),
        },
        "terminationLog": str(folder / "run" / "report.json"),
    }
    return overridden(base, values, RunConfig)


def train(folder: Path, values: Values, seed: int) -> Curve:
    """One run of the trainer in this process."""
    from finetune_trainer.__main__ import main as trainer

    shutil.rmtree(folder / "run", ignore_errors=True)
    (folder / "run").mkdir(parents=True)
    config = folder / "run" / "run.json"
    config.write_text(json.dumps(run_config(folder, values, seed)))
    clock = Clock()
    with (folder / "log").open("w") as log, contextlib.redirect_stdout(log), listening(clock):
        code = trainer([str(config)])
    if code:
        raise SystemExit(f"exit {code} of {values}, seed {seed}: {(folder / 'log').read_text()[-2000:]}")
    report = json.loads((folder / "run" / "model" / "run.json").read_text())["report"]
    epochs = report["epochs"]
    assert len(epochs) == len(clock.seconds) == EPOCHS
    return Curve(
        values=values,
        seed=seed,
        loss=[epoch["evalLoss"] for epoch in epochs],
        accuracy=[epoch["metrics"]["accuracy"] for epoch in epochs],
        seconds=[round(second, 2) for second in clock.seconds],
    )


@contextlib.contextmanager
def listening(clock: Clock) -> Iterator[None]:
    """The clock hears the evaluations; the trainer's logger keeps only its handlers."""
    logger = logging.getLogger("finetune_trainer.reporting.recorder")
    logger.addHandler(clock)
    try:
        yield
    finally:
        logger.removeHandler(clock)


def main() -> None:
    """Train what the table lacks: every configuration with the first seed, then with the next."""
    parser = argparse.ArgumentParser("search_table", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--table", type=Path, default=TABLE, help="file to extend (default %(default)s)")
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "search", help="for data and models")
    options = parser.parse_args()
    prepare(options.folder)
    import_module("finetune_trainer.training.pipeline")  # not in the first run's seconds
    table = read_table(options.table)
    for seed, chosen in product(SEEDS, product(*GRID.values())):
        values = dict(zip(GRID, chosen, strict=True))
        if (values, seed) not in table:
            line = train(options.folder, values, seed).to_line()
            with options.table.open("a") as file:
                file.write(line)
            print(line, end="", flush=True)


if __name__ == "__main__":
    main()
