"""Every objective on real checkpoints of five kinds of architecture: does it learn, and does the result load elsewhere?

    python tests/bench/architectures.py [--only bert gpt2 …] [--objectives classification …]

Each run is `python -m finetune_trainer` for a few steps on real rows of the checkpoint's own language. Its folder is
then loaded by plain transformers (an adapter by plain peft), which computes the test loss anew. `english` pre-trains a
small GPT-2 and a small RoBERTa on English for about a minute each, and compares them with random weights. Converted
and pre-trained models are kept in --folder, with the runs of `english`.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("api", "trainer-image", "demo", "tests")]

from bench.checkpoints import CHECKPOINTS, Checkpoint  # noqa: E402
from bench.lessons import LESSONS, Lesson  # noqa: E402
from bench.materials import Row, split  # noqa: E402
from bench.reloads import Reloaded  # noqa: E402
from bench.small_english import compare  # noqa: E402
from bench.tables import markdown  # noqa: E402
from bench.trainer_runs import run_trainer, write_rows  # noqa: E402

TOLERANCE = 1e-4
"""Of the test loss in plain transformers, relative: texts are computed one by one there, in padded batches here."""
ADAPTED = ("LoRA", "LoRA, merged")


@dataclass(frozen=True)
class Effort:
    """How long a checkpoint is trained."""

    steps: int = 32
    batch: int = 16
    rate: float = 5e-4
    adapter_rate: float = 2e-3
    length: int = 128
    test_rows: int = 100


EFFORTS = {
    "bert": Effort(rate=1e-4, adapter_rate=1e-3, length=48),
    "roberta": Effort(rate=1e-3),
    "gpt2": Effort(),
    "llama": Effort(steps=24, batch=8, rate=1e-4, adapter_rate=1e-3, length=48, test_rows=24),
    "albert": Effort(),
}


def run_config(
    name: str, lesson: Lesson, model: dict[str, Any], rows: list[Row], folder: Path
) -> dict[str, Any]:
    """A RunConfig of one run."""
    effort = EFFORTS[name]
    kind, options = next(iter(lesson.objective.items()))
    return {
        "job": {"name": "architectures"},
        "model": model,
        "dataset": {
            "train": {"path": str(folder / "train.jsonl")},
            "test": {"path": str(folder / "test.jsonl")},
            "preprocessing": {"maxLength": effort.length},
        },
        "objective": {kind: options | labels_of(kind, rows) | normalised(kind, CHECKPOINTS[name])},
        "training": {
            "maxSteps": effort.steps,
            "batchSize": effort.batch,
            "precision": "Float32",
            "optimizer": {"learningRate": effort.adapter_rate if "adapter" in model else effort.rate},
            "schedule": {"name": "Constant"},
            "evaluation": {
                "metrics": [lesson.metric, *(["mse"] if kind == "regression" else [])],
                "every": {"steps": effort.steps},
            },
            "checkpoint": {"every": {"minutes": 1000}},
        },
        "output": {
            "modelDir": str(folder / "out" / "model"),
            "stagingDir": str(folder / "out" / "staging"),
            "checkpointDir": str(folder / "out" / "checkpoints"),
        },
        "terminationLog": str(folder / "report.json"),
    }


def labels_of(kind: str, rows: list[Row]) -> dict[str, list[str]]:
    """All labels of the data: some may be in the test rows only."""
    if kind not in ("classification", "tokenClassification"):
        return {}
    found = [[row["label"]] if isinstance(row["label"], str) else row["label"] for row in rows]
    return {"labels": sorted({label for labels in found for label in labels})}


def normalised(kind: str, checkpoint: Checkpoint) -> dict[str, bool]:
    """Targets of mean 0, where the last layer can hold their mean."""
    return {"normalize": True} if kind == "regression" and checkpoint.biased_head else {}


def jobs(name: str) -> dict[str, tuple[Lesson, dict[str, Any]]]:
    """Every objective on all weights, and one with an adapter, alone and merged."""
    lessons = LESSONS[name]
    found: dict[str, tuple[Lesson, dict[str, Any]]] = {key: (lesson, {}) for key, lesson in lessons.items()}
    for title in ADAPTED:
        found[f"classification, {title}"] = (
            lessons["classification"],
            {"adapter": {"lora": {"merge": title != "LoRA"}}},
        )
    return found


def measure(name: str, title: str, base: Path) -> dict[str, Any]:
    """A line of the table. Raises SystemExit for a run that fails; what falls short is said in the line."""
    lesson, changes = jobs(name)[title]
    effort, rows = EFFORTS[name], lesson.rows()
    train, test = split(rows)
    test = test[: effort.test_rows]
    kind = next(iter(lesson.objective))
    with tempfile.TemporaryDirectory(dir=base.parent) as staging:
        folder = Path(staging)
        write_rows(folder / "train.jsonl", train[: 2 * effort.steps * effort.batch])
        write_rows(folder / "test.jsonl", test)
        config = run_config(name, lesson, {"path": str(base)} | changes, rows, folder)
        report = run_trainer(config, folder)
        model = Path(config["output"]["modelDir"])
        shutil.rmtree(config["output"]["checkpointDir"], ignore_errors=True)
        first, last = first_and_last(model)
        if title.endswith(ADAPTED[0]):
            loaded = Reloaded.adapter(model, base, kind, effort.length)
        else:
            loaded = Reloaded.whole(model, kind, effort.length)
        metrics = report["model"]["metrics"]
        ours = metrics[
            "test_mse" if kind == "regression" else "test_loss"
        ]  # the loss of normalised targets has another unit
        apart = abs(loaded.loss(kind, test) - ours) / ours
        everything = sum(p.numel() for p in loaded.model.parameters())
    return {
        "architecture": CHECKPOINTS[name].architecture,
        "checkpoint": CHECKPOINTS[name].source,
        "parameters": f"{everything / 1e6:.1f} M",
        "objective": title,
        "rows": lesson.data,
        "first loss": f"{first:.3f}",
        "last loss": f"{last:.3f}" + ("" if last < first else ", **not fallen**"),
        "test": f"{lesson.metric} {metrics.get(f'test_{lesson.metric}', float('nan')):.3f}",
        "reloads": f"{apart:.0e}" if apart < TOLERANCE else f"**differs by {apart:.1e}**",
    }


def first_and_last(model: Path) -> tuple[float, float]:
    """The training loss of the first step, and the mean of the last quarter of the steps: batches are small."""
    entries = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if entry["event"] == "train"]
    return losses[0], statistics.mean(losses[-max(1, len(losses) // 4) :])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser("architectures", description=(__doc__ or "").split("\n")[0])
    names = [*CHECKPOINTS, "english"]
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--objectives", nargs="*", help="of each checkpoint, as the table names them")
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "architectures")
    options = parser.parse_args()
    table = []
    for name in options.only:
        if name in CHECKPOINTS:
            base = CHECKPOINTS[name].folder(options.folder)
            for title in [title for title in jobs(name) if title in (options.objectives or jobs(name))]:
                table.append(measure(name, title, base))
                print(table[-1], file=sys.stderr, flush=True)
    print(markdown(table))
    if "english" in options.only:
        print(markdown(compare(options.folder)))
    short = [line for line in table if "**" in line["last loss"] + line["reloads"]]
    if short:
        raise SystemExit(f"{len(short)} of {len(table)} runs fell short")


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    main()
