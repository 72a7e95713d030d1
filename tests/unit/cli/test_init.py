"""`finetune init` writes a job that is valid, or says what is wrong; it overwrites nothing."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from finetune_cli.init import QUESTIONS, answered
from unit.cli.commands import finetune

GIVEN = ["--name", "reviews", "--model", "hf://org/model", "--train", "pvc://demo/a.jsonl"]


def test_options_become_a_job_that_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    changes = ["--set", "training.epochs=2", "--set", "spec.training.optimizer.learningRate=2e-5"]
    done = finetune("init", file, *GIVEN, "--objective", "causalLM", *changes)
    assert done.code == 0, done.err
    assert finetune("validate", file).code == 0
    spec = YAML(typ="safe").load(file.read_text())["spec"]
    assert spec["objective"] == {"causalLM": {}}
    assert spec["training"] == {"epochs": 2, "optimizer": {"learningRate": 2e-5}}


def test_an_existing_file_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("mine")
    done = finetune("init", file, *GIVEN, "--objective", "classification")
    assert (done.code, file.read_text()) == (1, "mine")
    assert "is not overwritten" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (GIVEN, "--objective not given"),
        (
            [*GIVEN, "--objective", "clasification"],
            "spec.objective.clasification: unknown field; did you mean",
        ),
        (
            [*GIVEN, "--objective", "classification", "--set", "training.epoch=2"],
            "did you mean training.epochs?",
        ),
        (
            [*GIVEN, "--objective", "classification", "--set", "training.epochs"],
            "--set 'training.epochs' is not an",
        ),
        ([*GIVEN[2:], "--name", "My_Job", "--objective", "regression"], "metadata.name must have"),
        (
            ["--name", "a", "--model", "/tmp/m", "--train", "x", "--objective", "regression"],
            "spec.model.uri: ",
        ),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    file = tmp_path / "job.yaml"
    done = finetune("init", file, *arguments)
    assert (done.code, file.exists()) == (1, False)
    assert said in done.err


def test_only_what_is_missing_is_asked() -> None:
    asked: list[str] = []

    def ask(text: str, default: str) -> str:
        asked.append(text)
        return default

    given = {"name": "a", "model": None, "train": "pvc://demo/a.jsonl", "objective": None}
    answers = answered(given, ask)
    assert len(asked) == 2
    assert answers == {
        "name": "a",
        "model": QUESTIONS[1].default,
        "train": "pvc://demo/a.jsonl",
        "objective": "classification",
    }
