"""Writes a FineTuneJob from options or from a few questions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.objective import ObjectiveSpec
from finetune_api.overrides import OverrideError, overridden, read_assignment
from finetune_cli.errors import CommandError
from finetune_sdk.validation import faults_of
from finetune_sdk.yaml_files import write_documents

Body = dict[str, Any]
Ask = Callable[[str, str], str]

OBJECTIVES = [info.alias or name for name, info in ObjectiveSpec.model_fields.items()]


@dataclass(frozen=True)
class Question:
    """What a job needs: its option, the question, and the answer that Enter gives."""

    option: str
    text: str
    default: str


QUESTIONS = (
    Question("name", "Name of the job (a-z, 0-9, -)", "my-job"),
    Question("model", "Model (pvc://CLAIM/PATH or hf://ORG/NAME)", "pvc://demo/models/minilm"),
    Question(
        "train",
        "Training rows (pvc://CLAIM/PATH or hf://datasets/ORG/NAME/FILE)",
        "pvc://demo/data/train.jsonl",
    ),
    Question("objective", f"Objective ({', '.join(OBJECTIVES)})", OBJECTIVES[0]),
)


def answered(given: Mapping[str, str | None], ask: Ask | None) -> dict[str, str]:
    """An answer to every question: the option's, else the user's. Raises CommandError if nobody can be asked."""
    missing = [f"--{question.option}" for question in QUESTIONS if not given[question.option]]
    if missing and ask is None:
        raise CommandError(f"{', '.join(missing)} not given, and there is no terminal to ask on")
    return {
        question.option: given[question.option] or (ask(question.text, question.default) if ask else "")
        for question in QUESTIONS
    }


def job_from(answers: Mapping[str, str], changes: list[str]) -> Body:
    """The FineTuneJob; `changes` are PATH=VALUE of its spec. Raises CommandError with every fault."""
    spec: Body = {
        "model": {"uri": answers["model"]},
        "dataset": {"train": {"uri": answers["train"]}},
        "objective": {answers["objective"]: {}},
    }
    try:
        for path, value in map(read_assignment, changes):
            spec = overridden(spec, {path.removeprefix("spec."): value}, FineTuneJobSpec)
    except OverrideError as error:
        raise CommandError(f"spec.{error}") from error
    except ValueError as error:
        raise CommandError(f"--set {error}") from error
    body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": answers["name"]}, "spec": spec}
    if faults := list(faults_of(body)):
        raise CommandError("\n".join(faults))
    return body


def refuse_existing(file: Path) -> None:
    """Raise CommandError if the file exists: before the user has answered a question."""
    if file.exists():
        raise CommandError(f"{file} exists and is not overwritten; choose another file, or remove it")


def write(body: Body, file: Path) -> None:
    """Write the job to a new file. Raises CommandError if there is one."""
    try:
        with file.open("x", encoding="utf-8") as out:
            write_documents([body], out)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror or error}") from error
