"""What a technique brings on real data: each against its control, at equal steps and over the same seeds.

Called by `quality`.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.materials import TASKS, VADER, Row
from bench.tables import spread
from bench.trainer_runs import Setting, read_rows, train, write_rows

Prepare = Callable[[str, argparse.Namespace], Setting]
Rows = list[dict[str, Any]]
LORA = {"model": {"adapter": {"lora": {}}}, "training": {"optimizer": {"learningRate": 1e-3}}}


def _row(what: str, metric: str, control: list[float], treated: list[float]) -> dict[str, Any]:
    difference = statistics.mean(treated) - statistics.mean(control)
    return {
        "comparison": what,
        "metric": metric,
        "control": spread(control),
        "with": spread(treated),
        "difference": f"{difference:+.3f}",
    }


def _each(options: argparse.Namespace, task: str, prepare: Prepare, **changes: Any) -> list[float]:
    setting = prepare(task, options)
    return [train(TASKS[task], setting, seed, **changes)[0] for seed in range(1, options.seeds + 1)]


def pretrained(options: argparse.Namespace, prepare: Prepare) -> Rows:
    """Pretrained against random weights."""
    random = _each(options, "movies", prepare, model={"initialize": "Random"})
    return [
        _row(
            "pretrained against random weights, movies", "accuracy", random, _each(options, "movies", prepare)
        )
    ]


def precision(options: argparse.Namespace, prepare: Prepare) -> Rows:
    """bfloat16 against float32; the same where the CPU does not compute in bfloat16."""
    full = _each(options, "movies", prepare, training={"precision": "Float32"})
    return [_row("Auto against Float32, movies", "accuracy", full, _each(options, "movies", prepare))]


def ensemble(options: argparse.Namespace, prepare: Prepare) -> Rows:
    """The mean of the members' probabilities against the mean member."""
    setting = prepare("movies", options)
    runs = [train(TASKS["movies"], setting, seed) for seed in range(1, options.seeds + 1)]
    joint = _accuracy_of_all([folder for _, folder in runs], setting.folder / "test.jsonl")
    what = f"ensemble of {len(runs)} seeds against the mean member, movies"
    return [_row(what, "accuracy", [score for score, _ in runs], [joint])]


def _accuracy_of_all(folders: list[Path], test: Path) -> float:
    rows = read_rows(test)
    total = sum(outputs(folder, rows).softmax(-1) for folder in folders)
    labels = json.loads((folders[0] / "config.json").read_text())["label2id"]
    guesses = total.argmax(-1).tolist()
    return statistics.mean(labels[row["label"]] == guess for row, guess in zip(rows, guesses, strict=True))


def outputs(folder: Path, rows: list[Row]) -> Any:
    """Logits (rows, outputs) of a published model."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), 64):
            texts = [row["text"] for row in rows[start : start + 64]]
            batch = tokenizer(texts, truncation=True, max_length=64, padding=True, return_tensors="pt")
            parts.append(model(**batch).logits)
    return torch.cat(parts)


def domains(options: argparse.Namespace, prepare: Prepare) -> Rows:
    """A LoRA adapter for each of the four domains against one model of all, at equal passes over the rows."""
    names = {domain: "movies-rating" if domain == "movies" else domain for domain in VADER}
    settings = {domain: prepare(name, options) for domain, name in names.items()}
    shared, seeds = _shared(options, list(settings.values())), range(1, options.seeds + 1)
    everywhere = [train(TASKS["tweets"], shared, seed)[1] for seed in seeds]
    rows = []
    for domain, setting in settings.items():
        test = read_rows(setting.folder / "test.jsonl")
        one = [_pearson(folder, test) for folder in everywhere]
        own = [train(TASKS[names[domain]], setting, seed, **LORA)[0] for seed in seeds]
        rows.append(_row(f"LoRA adapter of its own against one shared model, {domain}", "pearson", one, own))
    return rows


def _shared(options: argparse.Namespace, settings: list[Setting]) -> Setting:
    """The rows of all domains in one file; the first domain's test rows, which are not looked at."""
    folder = options.folder / "-".join(["shared", *(setting.folder.name for setting in settings)])
    rows = [row for setting in settings for row in read_rows(setting.folder / "train.jsonl")]
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "test.jsonl", read_rows(settings[0].folder / "test.jsonl"))
    return replace(settings[0], folder=folder)


def _pearson(folder: Path, rows: list[Row]) -> float:
    import numpy as np

    return float(np.corrcoef(outputs(folder, rows)[:, 0].numpy(), [row["label"] for row in rows])[0, 1])


COMPARISONS: dict[str, Callable[[argparse.Namespace, Prepare], Rows]] = {
    "pretrained": pretrained,
    "precision": precision,
    "ensemble": ensemble,
    "domains": domains,
}
