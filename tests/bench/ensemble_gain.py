"""What ensembles, soups, EMA and a student gain over the mean and the best member, on test rows of three data sets.

    OMP_NUM_THREADS=1 nice python tests/bench/ensemble_gain.py [--repetitions 3] [--folder FOLDER]

Five members that differ in their seed: MiniLM's embeddings, which stay frozen, and its first two layers, on 1,500 rows
for three epochs. The best member is that with the best value on 500 validation rows, by which soups are chosen too; all
figures are of 1,000 other rows, of the tweets 340. Intervals are 95 % of paired bootstrap resamples of these rows, the
same ones for all repetitions: they say nothing about other data. A repetition has other seeds and the same rows. All
runs are in this process and on one thread. Finished models are kept in --folder, so that a bench that was broken off
goes on.
"""

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("api", "trainer-image", "demo", "tests")]

from bench.comparisons import outputs  # noqa: E402
from bench.materials import TASKS, Task, split  # noqa: E402
from bench.tables import markdown, spread  # noqa: E402
from bench.trainer_runs import read_rows, write_rows  # noqa: E402
from finetune_demo import materials  # noqa: E402

Outputs = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
DATA = ("movies", "tweets", "wordnet")
TRAIN_ROWS, VALIDATION_ROWS, TEST_ROWS = 1_500, 500, 1_000
MEMBERS, LAYERS, EPOCHS, RATE, MAX_LENGTH = 5, 2, 3, 5e-4, 64
RESAMPLES = 1_000
FOLDED = {"AverageWeights": "soup", "GreedySoup": "greedy soup", "Distil": "student"}


@dataclass(frozen=True)
class Bench:
    """A data set with its files and what is measured on it."""

    name: str
    folder: Path
    model: Path

    @property
    def task(self) -> Task:
        """Its objective and metric."""
        return TASKS[self.name]

    def prepare(self) -> "Bench":
        """Write the rows."""
        if not (self.folder / "test.jsonl").exists():
            train, others = split(self.task.read())
            labels = {str(row["label"]) for row in train[:TRAIN_ROWS]}
            if self.task.objective == "classification":
                others = [row for row in others if row["label"] in labels]
            write_rows(self.folder / "train.jsonl", train[:TRAIN_ROWS])
            write_rows(self.folder / "validation.jsonl", others[:VALIDATION_ROWS])
            write_rows(self.folder / "test.jsonl", others[VALIDATION_ROWS : VALIDATION_ROWS + TEST_ROWS])
        return self

    @property
    def dataset(self) -> dict[str, Any]:
        """The rows to train and validate on."""
        paths = {part: {"path": str(self.folder / f"{part}.jsonl")} for part in ("train", "validation")}
        return paths | {"preprocessing": {"maxLength": MAX_LENGTH}}

    def training(self, seed: int) -> dict[str, Any]:
        """How every model is trained."""
        metric = self.task.metric
        return {
            "epochs": EPOCHS,
            "seed": seed,
            "optimizer": {"learningRate": RATE},
            "evaluation": {"metrics": [metric], "bestMetric": metric},
            "checkpoint": {"every": {"minutes": 1000}},
        }

    @property
    def start(self) -> dict[str, Any]:
        """What every model starts from."""
        return {"path": str(self.model), "freeze": {"embeddings": True}}


def trained(bench: Bench, seed: int, **training: Any) -> Path:
    """A model of one run; kept from an earlier one if it is there."""
    name = f"{'ema' if training else 'member'}-{seed}"
    config = {
        "job": {"name": "bench"},
        "model": bench.start,
        "dataset": bench.dataset,
        "objective": {bench.task.objective: {}},
        "training": bench.training(seed) | training,
        "output": _output(bench, name) | {"checkpointDir": str(bench.folder / f"{name}.run" / "checkpoints")},
    }
    config["output"]["tokenDir"] = str(bench.folder / "tokens")
    return _run(bench, name, config)


def combined(bench: Bench, rule: str, members: list[Path], seed: int) -> Path:
    """One model of several."""
    name = f"{rule}-{seed}"
    config = {
        "kind": "CombineConfig",
        "job": {"name": "bench"},
        "members": [{"path": str(member)} for member in members],
        "combine": rule,
        "publish": "Always",
        "bestMetric": bench.task.metric,
        "metrics": [bench.task.metric],
        "dataset": bench.dataset,
        "objective": {bench.task.objective: {}},
        "output": _output(bench, name),
    }
    if rule == "Distil":
        folder = str(bench.folder / f"{name}.run" / "student")
        config["student"] = {"model": bench.start, "training": bench.training(seed), "workDir": folder}
    return _run(bench, name, config)


def _output(bench: Bench, name: str) -> dict[str, str]:
    run = bench.folder / f"{name}.run"
    return {"modelDir": str(bench.folder / name), "stagingDir": str(run / "staging")}


def _run(bench: Bench, name: str, config: dict[str, Any]) -> Path:
    from finetune_trainer.__main__ import main as trainer

    model, run = bench.folder / name, bench.folder / f"{name}.run"
    if not model.exists():
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps(config | {"terminationLog": str(run / "report.json")}))
        began = time.process_time()
        with (run / "log").open("w") as log, contextlib.redirect_stdout(log):
            code = trainer([str(run / "run.json")])
        if code:
            raise SystemExit(f"exit {code}: {(run / 'log').read_text()[-2000:]}")
        print(
            f"{bench.name} {name}: {time.process_time() - began:.0f} CPU seconds", file=sys.stderr, flush=True
        )
    return model


def answers(bench: Bench, model: Path) -> Outputs:
    """What a model answers for the test rows: probabilities (rows, labels), or numbers (rows, 1)."""
    kept = model.with_name(f"{model.name}.test.npy")
    if not kept.exists():
        logits = outputs(model, read_rows(bench.folder / "test.jsonl")).double()
        found = logits if bench.task.objective == "regression" else logits.softmax(-1)
        np.save(kept, found.numpy())
    return np.asarray(np.load(kept))


def validation_value(bench: Bench, model: Path) -> float:
    """The metric on the validation rows, as the trainer reported it."""
    metrics = json.loads((model / "run.json").read_text())["report"]["model"]["metrics"]
    return float(metrics[f"eval_{bench.task.metric}"])


def repetition(bench: Bench, number: int) -> dict[str, list[Outputs]]:
    """The answers of every model by what it is; of members there are several."""
    seeds = [MEMBERS * number + one for one in range(1, MEMBERS + 1)]
    members = [trained(bench, seed) for seed in seeds]
    best = max(members, key=lambda member: validation_value(bench, member))
    each = [answers(bench, member) for member in members]
    found = {"mean member": each, "best member": [answers(bench, best)]}
    found["mean of outputs"] = [np.mean(each, axis=0)]
    for rule, what in FOLDED.items():
        found[what] = [answers(bench, combined(bench, rule, members, seeds[0]))]
    found["one run"] = [each[0]]
    found["the same run with EMA"] = [answers(bench, trained(bench, seeds[0], ema={}))]
    return found


def scorer(bench: Bench) -> Callable[[Outputs, Ints], float]:
    """The metric of answers on some of the test rows."""
    truth = [row["label"] for row in read_rows(bench.folder / "test.jsonl")]
    if bench.task.objective == "regression":
        numbers = np.asarray(truth)
        return lambda found, rows: float(np.corrcoef(found[rows, 0], numbers[rows])[0, 1])
    labels = sorted({row["label"] for row in read_rows(bench.folder / "train.jsonl")})
    ids = np.asarray([labels.index(label) for label in truth])
    return lambda found, rows: float(np.mean(found[rows].argmax(-1) == ids[rows]))


def table(bench: Bench, repetitions: int) -> list[dict[str, Any]]:
    """A row for every kind of model: its value, and its gain over the mean and the best member."""
    found, score = [repetition(bench, number) for number in range(repetitions)], scorer(bench)
    random, size = np.random.default_rng(0), len(found[0]["best member"][0])
    resamples = [random.integers(size, size=size) for _ in range(RESAMPLES)]

    def value(one: dict[str, list[Outputs]], what: str, rows: Ints) -> float:
        return fmean(score(each, rows) for each in one[what])

    def gain(what: str, over: str) -> str:
        def of(rows: Ints) -> float:
            return fmean(value(one, what, rows) - value(one, over, rows) for one in found)

        low, high = np.percentile([of(rows) for rows in resamples], [2.5, 97.5])
        return f"{of(np.arange(size)):+.3f} ({low:+.3f} to {high:+.3f})"

    values = {what: [value(one, what, np.arange(size)) for one in found] for what in found[0]}
    return [
        {f"{bench.name}, {bench.task.metric}": what, "test rows": spread(values[what])}
        | {
            f"gain over {title}": "" if what in skipped else gain(what, over)
            for title, over, skipped in (
                ("the mean member", "mean member", {"mean member", "one run", "the same run with EMA"}),
                ("the best member", "best member", {"best member", "one run", "the same run with EMA"}),
                ("the same run", "one run", set(values) - {"the same run with EMA"}),
            )
        }
        for what in values
    ]


def prepare_model(folder: Path) -> Path:
    """MiniLM without its upper layers."""
    if not (folder / "config.json").exists():
        from transformers import AutoModel

        materials.write_model(materials.fetch(materials.cache_folder())[0], folder)
        AutoModel.from_pretrained(folder, num_hidden_layers=LAYERS).save_pretrained(folder)
    return folder


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser("ensemble_gain", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "ensembles", help="for data and models")
    options = parser.parse_args()
    model = prepare_model(options.folder / "model")
    benches = [Bench(name, options.folder / name, model).prepare() for name in DATA]
    for number in range(options.repetitions):
        for bench in benches:
            repetition(bench, number)
    for bench in benches:
        print(markdown(table(bench, options.repetitions)), flush=True)


if __name__ == "__main__":
    main()
