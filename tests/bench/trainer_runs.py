"""Runs the trainer as a user does, `python -m finetune_trainer`, and reads its report. Called by `quality`."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.materials import Row, Task

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Setting:
    """Where a task's files lie, and how long it is trained."""

    folder: Path
    model: Path
    epochs: int
    rate: float
    labels: list[str] | None
    """All of the data set; some may be in the test rows only."""


def write_rows(path: Path, rows: Iterable[Row]) -> Path:
    """A jsonl file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[Row]:
    """The rows of a jsonl file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def run_config(task: Task, setting: Setting, out: Path, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    """A RunConfig of one run; `changes` replaces members of model or training."""
    metric = task.metric
    training = {
        "epochs": setting.epochs,
        "seed": seed,
        "optimizer": {"learningRate": setting.rate},
        "evaluation": {"metrics": [metric]},
        "checkpoint": {"every": {"minutes": 1000}},
    }
    return {
        "job": {"name": "bench"},
        "model": {"path": str(setting.model)} | changes.get("model", {}),
        "dataset": {
            "train": {"path": str(setting.folder / "train.jsonl")},
            "test": {"path": str(setting.folder / "test.jsonl")},
            "preprocessing": {"maxLength": task.max_length, "truncation": task.truncation},
        },
        "objective": {task.objective: {"labels": setting.labels} if setting.labels else {}},
        "training": training | changes.get("training", {}),
        "output": {
            "modelDir": str(out / "model"),
            "stagingDir": str(out / "staging"),
            "checkpointDir": str(out / "checkpoints"),
        },
        "terminationLog": str(out / "report.json"),
    }


def train(task: Task, setting: Setting, seed: int, **changes: Any) -> tuple[float, Path]:
    """The test rows' metric of one run, and the model's folder."""
    name = "-".join(["seed", str(seed), *(f"{key}-{value}" for key, value in changes.items())])
    out = setting.folder / "".join(c if c.isalnum() else "-" for c in name)[:120]
    report = run_trainer(run_config(task, setting, out, seed, changes), out)
    return report["model"]["metrics"][f"test_{task.metric}"], out / "model"


def combine(
    task: Task, setting: Setting, members: list[Path], rule: str, what: str
) -> tuple[list[float], float]:
    """The test rows' metric of every member and of all together, as the trainer's combination finds them."""
    out = setting.folder / f"{rule}-of-{len(members)}-{what}"
    config = {
        "kind": "CombineConfig",
        "job": {"name": "bench"},
        "members": [{"path": str(member)} for member in members],
        "combine": rule,
        "publish": "Always",
        "bestMetric": task.metric,
        "dataset": {
            "test": {"path": str(setting.folder / "test.jsonl")},
            "preprocessing": {"maxLength": task.max_length, "truncation": task.truncation},
        },
        "objective": {task.objective: {"labels": setting.labels} if setting.labels else {}},
        "metrics": [task.metric],
        "output": {"modelDir": str(out / "model"), "stagingDir": str(out / "staging")},
        "terminationLog": str(out / "report.json"),
    }
    name = f"test_{task.metric}"
    joint = run_trainer(config, out)["model"]["metrics"][name]
    manifest = json.loads((out / "model" / "ensemble.json").read_text())
    return [member["metrics"][name] for member in manifest["members"]], joint


def run_trainer(config: dict[str, Any], out: Path) -> dict[str, Any]:
    """The report of a run; one that was done before, with the same configuration, is not repeated."""
    report, asked = out / "report.json", out / "run.json"
    same = asked.exists() and asked.read_text() == json.dumps(config)
    if same and report.exists() and json.loads(report.read_text()).get("exitCode") == 0:
        found: dict[str, Any] = json.loads(report.read_text())
        return found
    shutil.rmtree(config["output"]["modelDir"], ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    asked.write_text(json.dumps(config))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("api", "trainer-image"))
    }
    with (out / "log").open("w") as log:
        command = [sys.executable, "-m", "finetune_trainer", str(asked)]
        done = subprocess.run(command, stdout=log, stderr=log, env=environment)
    if done.returncode:
        raise SystemExit(f"exit {done.returncode}: {(out / 'log').read_text()[-2000:]}")
    return json.loads(report.read_text())  # type: ignore[no-any-return]
