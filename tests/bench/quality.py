"""What the trainer reaches on real data, beside a floor on the same split: mean and spread over seeds.

    python tests/bench/quality.py [--tasks movies …] [--rows 2000] [--seeds 3] [--comparisons random …]

The split is the same for all seeds and grouped by document; a seed decides the head's first weights, the order of the
rows, dropout, and which tenth of the training rows is held out for validation. Finished runs are kept in --folder, so
that a run that was broken off goes on.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("api", "trainer-image", "demo", "tests")]

from bench.comparisons import COMPARISONS  # noqa: E402
from bench.floors import floor  # noqa: E402
from bench.materials import TASKS, Row, Task, chinese_reviews, split  # noqa: E402
from bench.tables import markdown, spread  # noqa: E402
from bench.trainer_runs import Setting, read_rows, run_config, run_trainer, train, write_rows  # noqa: E402
from finetune_demo import materials  # noqa: E402


def prepare(name: str, options: argparse.Namespace) -> Setting:
    """Write a task's rows; the model is there."""
    task = TASKS[name]
    count, epochs = options.rows or task.rows, options.epochs or task.epochs
    folder = options.folder / f"{name}-{count}-{epochs}"
    everything = task.read()
    rows, test = split(everything)
    write_rows(folder / "train.jsonl", rows[:count])
    write_rows(folder / "test.jsonl", test[: options.test_rows])
    return Setting(folder, options.folder / "minilm", epochs, options.rate, labels_of(task, everything))


def labels_of(task: Task, rows: list[Row]) -> list[str] | None:
    """The labels of all rows, sorted; None for numbers."""
    if task.objective == "regression":
        return None
    return sorted(
        {
            label
            for row in rows
            for label in ([row["label"]] if isinstance(row["label"], str) else row["label"])
        }
    )


def cut(rows: list[Row], task: Task, model: Path) -> list[Row]:
    """The rows with as much of every text as the trainer reads; lists of words as they are."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    most, kept = task.max_length - tokenizer.num_special_tokens_to_add(), []
    for row in rows:
        if isinstance(row["text"], str):
            offsets = tokenizer(row["text"], add_special_tokens=False, return_offsets_mapping=True)[
                "offset_mapping"
            ]
            seen = offsets[-most:] if task.truncation == "Left" else offsets[:most]
            kept.append(row | {"text": row["text"][seen[0][0] : seen[-1][1]] if seen else ""})
    return kept or rows


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    task, setting = TASKS[name], prepare(name, options)
    train_rows, test_rows = (read_rows(setting.folder / f"{part}.jsonl") for part in ("train", "test"))
    bar = floor(task.objective, train_rows, test_rows)
    same = floor(task.objective, *(cut(rows, task, setting.model) for rows in (train_rows, test_rows)))
    began = time.perf_counter()
    found = [train(task, setting, seed)[0] for seed in range(1, options.seeds + 1)]
    return {
        "data": name,
        "metric": task.metric,
        "rows": f"{len(train_rows):,} / {len(test_rows):,}",
        "floor": f"{bar:.3f}",
        "floor of what the trainer reads": f"{same:.3f}",
        "trainer": spread(found),
        "beaten": "yes" if statistics.mean(found) > bar else "no",
        "seconds a run": round((time.perf_counter() - began) / options.seeds),
    }


def deduplication(folder: Path) -> str:
    """How many of the Chinese reviews `deduplicate: Exact` keeps, as the report of a run of one step says it."""
    setting = Setting(folder / "chinese", folder / "minilm", epochs=1, rate=1e-6, labels=["neg", "pos"])
    rows = chinese_reviews()
    write_rows(setting.folder / "train.jsonl", rows)
    out = setting.folder / "run"
    config = run_config(Task(chinese_reviews, "classification", "accuracy"), setting, out, 1, {})
    config["dataset"].pop("test")
    config["dataset"]["preprocessing"] = {"maxLength": 4, "deduplicate": "Exact"}
    config["training"] = {"maxSteps": 1}
    found = run_trainer(config, out)["resolved"]
    kept, dropped = found["train"]["rows"] + found["validation"]["rows"], found["train"]["duplicateRows"]
    return f"{kept:,} of {len(rows):,} Chinese reviews kept by deduplicate: Exact, {dropped:,} dropped\n"


def main() -> None:
    """Print the tables and write out/quality.json."""
    parser = argparse.ArgumentParser("quality", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--comparisons", nargs="*", choices=COMPARISONS, default=list(COMPARISONS))
    parser.add_argument("--rows", type=int, help="training rows at most (default: by task)")
    parser.add_argument("--test-rows", type=int, default=2000, help="test rows at most (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="default: by task")
    parser.add_argument("--rate", type=float, default=2e-4, help="learning rate (default %(default)s)")
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "quality")
    options = parser.parse_args()
    if not (options.folder / "minilm").exists():
        materials.write_model(materials.fetch(materials.cache_folder())[0], options.folder / "minilm")
    table = []
    for name in options.tasks:
        table.append(measure(name, options))
        print(table[-1], file=sys.stderr, flush=True)
    rows = [row for name in options.comparisons for row in COMPARISONS[name](options, prepare)]
    told = deduplication(options.folder)
    print(markdown(table), markdown(rows), told, sep="\n")
    facts = {"options": vars(options), "tasks": table, "comparisons": rows, "deduplication": told}
    (ROOT / "out").mkdir(exist_ok=True)
    (ROOT / "out" / "quality.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False, default=str))


if __name__ == "__main__":
    main()
