"""What the examples of techniques reach on the demo's reviews, under one small budget; the first line is the control.

    python tests/bench/techniques.py FOLDER [--rows 1000] [--test-rows 500] [--steps 60] [--only lora …]

FOLDER is what `finetune_demo.materials.prepare` writes: models/minilm and data/. The rows are the first ones of the
files, the same for all; steps, batch and seed too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("api", "trainer-image"))
}
EXAMPLES = ROOT / "examples" / "techniques"
TECHNIQUES = (
    "batch-normalisation",
    "domain-vocabulary",
    "gradient-clipping",
    "lora",
    "regularisation",
    "schedules",
    "transfer-learning",
)
"""The examples on the demo's reviews; what concerns data and objectives is measured by `quality`."""
FROZEN = {"freeze": {"embeddings": True, "layers": 3}}
CONTROLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "control": ({}, {"optimizer": {"learningRate": 1e-4}}),
    "control: random weights": ({"initialize": "Random"}, {"optimizer": {"learningRate": 1e-4}}),
    "control: three layers frozen": (FROZEN, {"optimizer": {"learningRate": 2e-4}}),
    "control: three layers frozen, no clipping": (
        FROZEN,
        {"optimizer": {"learningRate": 2e-4}, "gradientClipping": {"maxNorm": 0}},
    ),
}
"""What model and training of a control have beside the defaults."""


def run_config(job: dict[str, Any], model: Path, data: Path, out: Path, steps: int) -> dict[str, Any]:
    """The RunConfig of an example on local files: data/train.jsonl and data/test.jsonl."""
    spec = job["spec"]
    changes = {key: value for key, value in spec["model"].items() if key not in ("uri", "tokenizer")}
    training = {key: value for key, value in spec["training"].items() if key != "epochs"}
    return {
        "job": {"name": job["metadata"]["name"]},
        "model": changes
        | {"path": str(model), "addTokens": spec["model"].get("tokenizer", {}).get("addTokens", [])},
        "dataset": {
            "train": {"path": str(data / "train.jsonl")},
            "test": {"path": str(data / "test.jsonl")},
            "preprocessing": spec["dataset"]["preprocessing"],
        },
        "objective": spec["objective"],
        "training": training | {"maxSteps": steps},
        "output": {
            "modelDir": str(out / "model"),
            "stagingDir": str(out / "staging"),
            "checkpointDir": str(out / "checkpoints"),
        },
    }


def read_example(name: str) -> dict[str, Any]:
    """The job of an example."""
    job: dict[str, Any] = YAML(typ="safe", pure=True).load((EXAMPLES / f"{name}.yaml").read_text())
    return job


def controls() -> dict[str, dict[str, Any]]:
    """Plain fine-tuning, each control with one change; clipped at the default norm of 1 unless it says otherwise."""
    plain, batch = read_example("gradient-clipping"), {"batchSize": 32, "microBatchSize": 32}
    return {
        name: {**plain, "spec": {**plain["spec"], "model": model, "training": batch | training}}
        for name, (model, training) in CONTROLS.items()
    }


def measure(name: str, job: dict[str, Any], options: argparse.Namespace, data: Path) -> str:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        config = run_config(job, options.folder / "models" / "minilm", data, out, options.steps)
        (out / "run.json").write_text(json.dumps(config))
        log = subprocess.run(
            [sys.executable, "-m", "finetune_trainer", str(out / "run.json")],
            check=True,
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
        ).stdout
        model = json.loads((out / "model" / "run.json").read_text())["report"]["model"]
        weights = sum(path.stat().st_size for path in (out / "model").glob("*.safetensors"))
    [trained] = [line for line in log.splitlines() if "parameters are trained;" in line]
    share = json.loads(trained)["message"].split(": ")[1].split(" parameters")[0]
    accuracy, loss = model["metrics"]["test_accuracy"], model["metrics"]["test_loss"]
    return f"| {name} | {accuracy:.3f} | {loss:.3f} | {share} | {weights / 1e6:.1f} MB |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser("techniques")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    jobs = controls() | {name: read_example(name) for name in TECHNIQUES}
    print("| job | test accuracy | test loss | trained at first | weights |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        for part, source, count in (("train", "", options.rows), ("test", "-test", options.test_rows)):
            lines = (options.folder / "data" / f"movie-reviews{source}.jsonl").read_text().splitlines(True)
            (data / f"{part}.jsonl").write_text("".join(lines[:count]))
        for name, job in jobs.items():
            if not options.only or name in options.only:
                print(measure(name, job, options, data), flush=True)


if __name__ == "__main__":
    main()
