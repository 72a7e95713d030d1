"""What a technique brings on real data: each against its control, at equal steps and over the same seeds.

Called by `quality`.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.materials import TASKS, VADER, Row, Task
from bench.peer import train_peer
from bench.tables import spread
from bench.trainer_runs import Setting, combine, read_rows, train, write_rows
from finetune_api.combine import RULES, CombineRule

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


def peer(options: argparse.Namespace, prepare: Prepare) -> Rows:
    """Ours at its defaults, length buckets and bfloat16 where there is any, against transformers.Trainer at its own."""
    task, setting = TASKS["movies"], prepare("movies", options)
    test, labels = read_rows(setting.folder / "test.jsonl"), setting.labels or []
    found = []
    for seed in range(1, options.seeds + 1):
        guesses = outputs(train_peer(setting, seed, task.max_length), test).argmax(-1).tolist()
        right = [labels[guess] == row["label"] for guess, row in zip(guesses, test, strict=True)]
        found.append(sum(right) / len(right))
    ours = _each(options, "movies", prepare)
    return [_row("ours against transformers.Trainer, movies", "accuracy", found, ours)]


def ensemble(options: argparse.Namespace, prepare: Prepare) -> Rows:
    """Every rule of `combine` that fits, on the same members, against the mean member.

    Members differ in their seed; for a soup once more in their rate alone, as a head's first weights are the seed's.
    GreedySoup is omitted: these members held out different rows, and there are no others to choose members by. So is
    Distil, whose student needs such rows: `ensemble_gain` measures both.
    """
    rows = []
    for name in ("movies", "movies-rating"):
        task, setting = TASKS[name], prepare(name, options)
        seeds = [train(task, setting, seed)[1] for seed in range(1, options.seeds + 1)]
        rates = [_at_rate(task, setting, setting.rate * factor) for factor in (0.5, 1.0, 2.0)]
        omitted = (CombineRule.GREEDY_SOUP, CombineRule.DISTIL)
        chosen = [(rule, "seeds", seeds) for rule in RULES[task.objective] if rule not in omitted]
        for rule, what, members in [*chosen, (CombineRule.AVERAGE_WEIGHTS, "rates", rates)]:
            each, joint = combine(task, setting, members, rule, what)
            told = f"{rule} of {len(members)} {what} against the mean member, {name}"
            rows.append(_row(told, task.metric, each, [joint]))
    return rows


def _at_rate(task: Task, setting: Setting, rate: float) -> Path:
    return train(task, setting, 1, training={"optimizer": {"learningRate": rate}})[1]


def moving_average(options: argparse.Namespace, prepare: Prepare) -> Rows:
    """training.ema against the last trained weights, in small batches: at a constant rate, and at one that falls."""
    rows = []
    for schedule in ("Constant", "Linear"):
        plan = {"batchSize": 4, "schedule": {"name": schedule}}
        last = _each(options, "movies", prepare, training=plan)
        better = _each(options, "movies", prepare, training=plan | {"ema": {}})
        rows.append(
            _row(f"training.ema against the last weights, {schedule}, movies", "accuracy", last, better)
        )
    return rows


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
    "peer": peer,
    "ema": moving_average,
    "ensemble": ensemble,
    "domains": domains,
}
