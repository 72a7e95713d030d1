"""Trains members, and combines them."""

import json
import subprocess
import sys

import pytest

from finetune_api.run import ExitCode, RunReport
from unit.trainer.combine.members import SPLIT, TEST
from unit.trainer.tiny import job, merged, reviews, write_jsonl


@pytest.fixture(scope="package")
def train(tmp_path_factory, model_folder):
    """Trains a member, once for each name."""
    known = {}

    def trained(name, seed=1, **changes):
        if name not in known:
            folder = tmp_path_factory.mktemp(name.replace("/", "-"))
            training = {"seed": seed, "epochs": 8}
            made = job(folder, model_folder, reviews(64), **merged({"training": training}, changes))
            assert made.run() == ExitCode.DONE, made.report.message
            known[name] = made.model_dir
        return known[name]

    return trained


@pytest.fixture
def trio(train):
    """Three classifiers that differ in their seed."""
    return [train(f"seed-{seed}", seed) for seed in (1, 2, 3)]


@pytest.fixture
def combine(tmp_path):
    """Combines folders; returns code, report (None of a process that was killed) and the new folder."""
    from finetune_trainer.__main__ import main

    def combined(folders, rule, *arguments, name="combined", run=main, **changes):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        rows = write_jsonl(folder / "test.jsonl", TEST)
        config = {
            "kind": "CombineConfig",
            "job": {"name": "together", "uid": "uid-9"},
            "members": [{"path": str(each), "uri": f"pvc://models/{n}"} for n, each in enumerate(folders)],
            "combine": rule,
            "publish": "Always",
            "bestMetric": "loss"
            if {"regression", "causalLM"} & set(changes.get("objective", {}))
            else "accuracy",
            "dataset": {"test": {"path": str(rows)}, "preprocessing": {"maxLength": 32}},
            "objective": {"classification": {}},
            "output": {
                "modelDir": str(folder / "model"),
                "stagingDir": str(folder / "uid-9" / "staging"),
                "uri": "pvc://models/together",
            },
            "precision": "Float32",
            "terminationLog": str(folder / "termination"),
        }
        path = folder / "combine.json"
        path.write_text(json.dumps(merged(config, changes)))
        code, termination = run([str(path), *arguments]), folder / "termination"
        report = RunReport.model_validate_json(termination.read_text()) if termination.exists() else None
        return code, report, folder / "model"

    return combined


@pytest.fixture
def without_torch():
    """Runs the trainer in a separate process, which fails if it imported torch."""

    def run(arguments):
        code = (
            "import sys; from finetune_trainer.__main__ import main; code = main(sys.argv[1:]);"
            "assert not {'torch', 'transformers'} & set(sys.modules); sys.exit(code)"
        )
        return subprocess.run([sys.executable, "-c", code, *arguments], check=False).returncode

    return run


@pytest.fixture
def held_out(tmp_path):
    """The data set of members that all held out the same rows."""
    return {
        "train": {
            "path": str(write_jsonl(tmp_path / "train.jsonl", reviews(64))),
            "uri": "pvc://data/train.jsonl",
        },
        "split": SPLIT,
    }


@pytest.fixture
def alike(train):
    """Three classifiers that differ in their seed, and held out the same rows."""
    return [train(f"alike-{seed}", seed, dataset={"split": SPLIT}) for seed in (1, 2, 3)]
