"""How long a run takes to its first optimizer step, and what evaluation needs in memory. Called by `trainer_speed`.

    python -m bench.start_up MODEL DATA COPIES

as a worker: evaluates COPIES times the rows of DATA, and prints the peak memory in MiB.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.speed_worker import Plan, build, peak_mib

STARTS = 3
MODULES = (
    "torch",
    "transformers",
    "accelerate",
    "sklearn",
    "matplotlib",
    "peft",
    "pyarrow",
    "finetune_trainer",
)


def start_up(folder: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    """Process begin → first optimizer step of a run over 1,500 rows, after one run that warms the caches."""
    _first_step(folder, environment)
    found = [_first_step(folder, environment) for _ in range(STARTS)]
    wall, cpu = statistics.median(w for w, _ in found), statistics.median(c for _, c in found)
    rows = [
        {"start": "process begin → first optimizer step", "wall, s": f"{wall:.1f}", "CPU, s": f"{cpu:.1f}"}
    ]
    return rows + _imports(environment)


def _first_step(folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as out:
        config = {
            "job": {"name": "start"},
            "model": {"path": str(folder / "models" / "minilm")},
            "dataset": {
                "train": {"path": str(_head(folder / "data" / "movie-reviews.jsonl", 1500))},
                "preprocessing": {"maxLength": 64},
            },
            "objective": {"classification": {}},
            "training": {"maxSteps": 500},
            "output": {
                "modelDir": f"{out}/model",
                "stagingDir": f"{out}/staging",
                "checkpointDir": f"{out}/checkpoints",
            },
        }
        path = Path(out) / "run.json"
        path.write_text(json.dumps(config))
        began = time.perf_counter()
        command = [sys.executable, "-m", "finetune_trainer", str(path)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if json.loads(line).get("event") == "train":
                    break
            wall, cpu = time.perf_counter() - began, _cpu_seconds(process.pid)
            process.kill()
    return wall, cpu


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _head(path: Path, rows: int) -> Path:
    short = path.with_suffix(".head.jsonl")
    short.write_text("".join(path.read_text().splitlines(keepends=True)[:rows]))
    return short


def _imports(environment: dict[str, str]) -> list[dict[str, Any]]:
    """CPU seconds of the imports that a run makes before its first step, by package, of one run."""
    program = "import bench.start_up as s; s.import_everything()"
    command = [sys.executable, "-X", "importtime", "-c", program]
    told = subprocess.run(command, stderr=subprocess.PIPE, env=environment, text=True, check=True).stderr
    own: dict[str, float] = {}
    for line in told.splitlines():
        if line.startswith("import time:") and "self [us]" not in line:
            self_us, _, name = line.removeprefix("import time:").split("|")
            package = name.strip().partition(".")[0]
            key = package if package in MODULES else "all others"
            own[key] = own.get(key, 0.0) + int(self_us) / 1e6
    rows = [{"start": f"importing {name}", "wall, s": f"{own[name]:.2f}", "CPU, s": ""} for name in own]
    return sorted(rows, key=lambda row: row["wall, s"], reverse=True)


def import_everything() -> None:
    """What a classification run has imported at its first step."""
    import accelerate  # noqa: F401
    import torch  # noqa: F401
    from transformers import AutoModelForSequenceClassification, BertForSequenceClassification  # noqa: F401

    import finetune_trainer.training.pipeline  # noqa: F401


def evaluation_memory(folder: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    """Peak memory of evaluating some rows and ten times as many, each in a process of its own."""
    model, data = folder / "models" / "minilm", _head(folder / "data" / "movie-reviews.jsonl", 2000)
    rows = []
    for copies in (1, 10):
        command = [sys.executable, "-m", "bench.start_up", str(model), str(data), str(copies)]
        told = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, check=True
        )
        facts = json.loads(told.stdout)
        rows.append({"evaluated rows": f"{facts['rows']:,}", "peak memory, MiB": round(facts["peak_mib"])})
    return rows


def _evaluate(model: str, data: str, copies: int) -> dict[str, float]:
    import numpy as np

    with tempfile.TemporaryDirectory() as scratch:
        plan = Plan("ours", model, data, "Auto", steps=1, warmup=0, window=1, scratch=scratch)
        run = build(plan).run
    rows = run.train
    shift = np.arange(copies)[:, None] * rows.offsets[-1] + rows.offsets[1:]
    many = replace(
        rows,
        ids=np.tile(rows.ids, copies),
        types=None if rows.types is None else np.tile(rows.types, copies),
        offsets=np.concatenate([[0], shift.ravel()]),
        targets=np.tile(rows.targets, copies),
        lines=np.tile(rows.lines, copies),
    )
    run.evaluator.evaluate(many, 128)
    return {"rows": len(many), "peak_mib": peak_mib()}


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(_evaluate(sys.argv[1], sys.argv[2], int(sys.argv[3]))), file=answers)
