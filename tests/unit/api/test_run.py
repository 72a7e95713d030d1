"""The files that cross the border between operator and trainer: RunConfig in, RunReport out."""

import difflib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from builders import run_config
from finetune_api.run import (
    TERMINATION_BYTES,
    ExitCode,
    FaultPlace,
    RunConfig,
    RunReport,
    to_message,
)
from finetune_api.schema import structural
from finetune_api.status import (
    CheckpointStatus,
    EarlyStoppedStatus,
    EffectiveStatus,
    EpochStatus,
    ModelStatus,
    ParameterGroupStatus,
    ProgressStatus,
    ResolvedData,
    ResolvedStatus,
)
from finetune_api.training import TrainingSpec
from unit.api.cases import FULL
from unit.api.schemas import leaf_places, nodes

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "run-config-v1.json"


def full_run_config() -> RunConfig:
    """A RunConfig in which every field is set."""
    split = {"fraction": 0.2, "stratify": False, "groupBy": "review_id", "seed": 7}
    smallest = run_config().to_json()
    return RunConfig.from_json(
        smallest
        | {
            "job": smallest["job"] | {"attempt": 2},
            "model": FULL["model"]
            | {
                "path": "/models/base",
                "tokenizer": None,
                "credentials": None,
                "uri": "hf://org/base@main",
                "revision": "0" * 40,
                "tokenizerPath": "/models/tokenizer",
                "tokenizerUri": "hf://org/tokenizer",
                "tokenizerRevision": "1" * 40,
                "addTokens": ["mmHg"],
            },
            "dataset": {
                name: FULL["dataset"][name] for name in ("columns", "preprocessing", "maxInvalidRows")
            }
            | {
                "train": {"path": "/data/train", "uri": "hf://datasets/org/data/train.csv", "format": "csv"}
                | {"revision": "2" * 40},
                "split": split,
                "forgetting": [
                    {"path": "/data/general", "uri": "pvc://demo/data/general.jsonl", "format": "jsonl"}
                    | {"revision": "4" * 40}
                ],
                "test": {"path": "/data/test", "uri": "configMap://tiny/test.csv", "format": "csv"}
                | {"revision": "3" * 40},
            },
            "objective": FULL["objective"],
            "training": FULL["training"],
            "gate": {"metric": "f1_macro", "betterThanBaselineBy": 0.02},
            "output": smallest["output"]
            | {
                "hubDir": "/finetune/hub",
                "tokenDir": "/finetune/tokens",
                "uri": "pvc://models/movie-sentiment",
                "dtype": "BFloat16",
            },
            "devices": {"gpus": 2, "simulated": True, "maxMicroBatchSize": 4},
            "progress": {
                "url": "https://finetune-operator.finetune-system.svc:9443",
                "tokenPath": "/var/run/finetune/token",
                "caPath": "/var/run/finetune/ca.crt",
            },
            "metricsPort": 9090,
            "terminationLog": "/dev/termination-log",
        }
    )


LESSON = {
    "outputs": "/finetune/student/teachers/outputs.npy",
    "digest": "sha256:" + "0" * 64,
    "rowsDigest": "sha256:" + "1" * 64,
    "temperature": 2.0,
    "alpha": 0.5,
}
"""What a student is taught: every field of it."""


NODES = {"count": 2, "address": "movie-sentiment-1a2b3c4d-a1-0.movie-sentiment-1a2b3c4d-a1", "port": 29500}
CHATS = {
    "train": {"path": "/data/train.jsonl"},
    "columns": {"messages": "conversations", "tools": "tools"},
    "rows": "ShareGPT",
    "chatTemplatePath": "/templates/chat.jinja",
}
CHAT_MODEL = {"causalLM": {"train": "LastTurn", "chatTemplate": "pvc://templates/chat.jinja"}}
"""Conversations, with every field of theirs but those of another form of rows."""


def all_forms() -> dict[str, Any]:
    return {
        "smallest": run_config().to_json(),
        "full": full_run_config().to_json(),
        "student": run_config(distillation=LESSON).to_json(),
        "nodes": run_config(nodes=NODES).to_json(),
        "chat": run_config(dataset=CHATS, objective=CHAT_MODEL).to_json(),
        "tensor groups": run_config(nodes=NODES, training={"tensorParallel": 2}).to_json(),
    }


def test_the_wire_form_of_a_run_config_is_frozen() -> None:
    now = json.dumps(all_forms(), indent=2)
    changes = list(
        difflib.unified_diff(GOLDEN.read_text().splitlines(), now.splitlines(), "frozen", "now", lineterm="")
    )
    if changes:
        advice = (
            "The file that the operator hands to trainers of other versions has changed. If an old trainer can read the"
            " new form, and a new trainer the old one, run `PYTHONPATH=tests python tests/unit/api/test_run.py` and"
            " have the diff reviewed."
        )
        pytest.fail("\n".join([advice, *changes]), pytrace=False)


@pytest.mark.parametrize("size", ["smallest", "full", "student", "nodes", "chat", "tensor groups"])
def test_the_frozen_run_config_is_read(size: str) -> None:
    written = json.loads(GOLDEN.read_text())[size]
    assert RunConfig.from_json(written).to_json() == written


def test_the_full_run_config_shows_every_field() -> None:
    schema = structural(RunConfig)
    shown = set().union(*(leaf_places(form) for form in all_forms().values()))
    choices = {place for place, node in nodes(schema) if node.get("maxProperties") == 1}
    missing = {
        place
        for place, _ in nodes(schema)
        if place not in shown
        and not any(place[: len(choice)] == choice for choice in choices)
        and place[:2] != ("dataset", "validation")  # a share of the training rows is held out instead
    }
    schedules = {place for place in missing if place[:2] == ("training", "schedule")}
    assert {place[2] for place in schedules} == {"power", "plateau"}  # each belongs to another shape
    assert missing - schedules == {
        ("gate", "min"),  # a gate has one threshold
        ("gate", "max"),
        ("training", "maxSteps"),
        ("training", "evaluation", "samples"),  # of a model that writes text
        *(("dataset", "columns", name) for name in ("prompt", "chosen", "rejected", "completion")),
    }


def test_validation_rows_come_from_a_file_or_from_the_training_rows() -> None:
    data = {"train": {"path": "/a"}, "validation": {"path": "/b"}, "split": {}}
    with pytest.raises(ValidationError, match=r"give either dataset\.validation, a file, or dataset\.split"):
        run_config(dataset=data)


ONLY_OF_NEXT_TOKENS = {
    "dataset.columns.prompt is for objective.causalLM and preference; for a second text": {
        "columns": {"prompt": "p"}
    },
    "dataset.preprocessing.packing is for objective.causalLM": {"preprocessing": {"packing": "Always"}},
}


@pytest.mark.parametrize("message", ONLY_OF_NEXT_TOKENS)
def test_what_only_the_prediction_of_next_tokens_has_is_refused_of_others(message: str) -> None:
    data = {"train": {"path": "/a"}} | ONLY_OF_NEXT_TOKENS[message]
    with pytest.raises(ValidationError, match=f"Value error, {message}"):
        run_config(dataset=data)
    assert run_config(dataset=data, objective={"causalLM": {}}).objective.kind == "causal_lm"


def texts(longest: int) -> st.SearchStrategy[str]:
    """Texts of up to `longest` characters, long ones as repetitions of a short one."""
    short = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
    return st.builds(lambda text, times: (text * times)[:longest], short, st.integers(0, longest))


numbers = st.floats() | st.integers(0, 10)
metrics = st.dictionaries(texts(64), numbers, max_size=32)
epochs = st.builds(
    EpochStatus, epoch=st.floats(0, 50), step=st.integers(0, 10**6), eval_loss=numbers, metrics=metrics
)
reports = st.builds(
    RunReport,
    attempt=st.integers(1, 10**6),
    exit_code=st.none() | st.sampled_from(ExitCode),
    message=texts(1024),
    traceback=st.none() | texts(2000),
    best=st.none()
    | st.builds(CheckpointStatus, step=st.integers(0, 10**6), metric=texts(256), value=numbers),
    epochs=st.builds(lambda some, times: some * times, st.lists(epochs, max_size=3), st.integers(0, 100)),
    effective=st.none()
    | st.builds(
        EffectiveStatus,
        labels=st.lists(texts(128), max_size=20),
        parameter_groups=st.lists(
            st.builds(ParameterGroupStatus, name=texts(64), parameters=st.integers(0, 10**12)), max_size=40
        ),
    ),
    model=st.none()
    | st.builds(ModelStatus, uri=texts(512), format=texts(256), base_model=texts(512), metrics=metrics),
)


@settings(max_examples=100, deadline=None)
@given(reports)
def test_a_report_fits_into_a_termination_message_and_is_read_again(report: RunReport) -> None:
    text = to_message(report)
    read = RunReport.model_validate_json(text)
    assert len(text.encode()) <= TERMINATION_BYTES
    assert (read.exit_code, read.attempt, read.version) == (report.exit_code, report.attempt, 1)
    assert report.message.startswith(read.message)
    assert read.best == report.best, "a search lives on the goal and its step"


def longest(character: str, model: ModelStatus) -> RunReport:
    """A report in which everything is as long as it may be, and more evaluations than anyone has."""
    metrics = {f"{index}".rjust(64, character): 0.1 + 0.2 for index in range(32)}
    data = ResolvedData(uri=character * 512, digest=character * 80)
    return RunReport(
        attempt=10**6,
        exit_code=ExitCode.DONE,
        message=character * 1024,
        traceback=character * 2000,
        place=FaultPlace(file=character * 512, field=character * 512, column=character * 128),
        from_step=10**6,
        progress=ProgressStatus(step=10**6, loss=0.1 + 0.2, metrics=metrics),
        best=CheckpointStatus(step=10**6, metric=character * 256, value=0.1 + 0.2),
        latest=CheckpointStatus(step=10**6, metric=character * 256),
        early_stopped=EarlyStoppedStatus(step=1, metric=character * 256, reason=character * 1024),
        epochs=[EpochStatus(epoch=1, step=1, metrics=metrics)] * 500,
        resolved=ResolvedStatus(train=data, validation=data, test=data, image=character * 1024),
        effective=EffectiveStatus(
            training=TrainingSpec(),
            labels=[character * 128] * 1000,
            parameter_groups=[ParameterGroupStatus(name=character * 256, parameters=10**12)] * 40,
        ),
        model=model,
    )


MODEL = ModelStatus(
    uri="pvc://models/sentiment", digest="sha256:" + "0" * 64, format="safetensors", metrics={"eval_f1": 0.9}
)


@pytest.mark.parametrize("character", ["a", "é", "語", "🙂", '"', "\x00", "\u2028"], ids=ascii)
def test_of_the_longest_report_the_model_and_a_sentence_stay(character: str) -> None:
    text = to_message(longest(character, MODEL))
    read = RunReport.model_validate_json(text)
    assert len(text.encode()) <= TERMINATION_BYTES
    assert (read.exit_code, read.attempt, read.model) == (ExitCode.DONE, 10**6, MODEL)
    assert (read.best.step, read.best.value) == (10**6, 0.1 + 0.2)
    assert len(read.message) >= 128


@pytest.mark.parametrize("character", ["a", "🙂", "\x00"], ids=ascii)
def test_the_longest_names_of_a_model_fit_too(character: str) -> None:
    model = ModelStatus(uri=character * 512, base_model=character * 512, format=character * 256)
    text = to_message(longest(character, model))
    assert len(text.encode()) <= TERMINATION_BYTES
    assert RunReport.model_validate_json(text).exit_code is ExitCode.DONE


def evaluations(count: int) -> list[EpochStatus]:
    return [
        EpochStatus(epoch=n, step=100 * n, eval_loss=1 / n, metrics={"f1": 0.5}) for n in range(1, count + 1)
    ]


def test_a_short_report_is_written_whole() -> None:
    report = RunReport(exit_code=ExitCode.DONE, message="Done.", epochs=evaluations(3))
    assert RunReport.model_validate_json(to_message(report)) == report


def test_of_many_evaluations_the_newest_stay() -> None:
    report = RunReport(exit_code=ExitCode.DONE, epochs=evaluations(500))
    kept = RunReport.model_validate_json(to_message(report)).epochs
    assert len(kept) > 5
    assert kept == report.epochs[-len(kept) :]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_the_last_evaluation_outlives_the_others(count: int) -> None:
    report = RunReport(epochs=evaluations(count))
    one = len(to_message(RunReport(epochs=report.epochs[-1:])).encode())
    assert RunReport.model_validate_json(to_message(report, limit=one)).epochs == report.epochs[-1:]


GIVING_WAY = [
    "parameter groups",
    "older evaluations",
    "traceback",
    "evaluations",
    "effective",
    "resolved",
    "early stopped",
    "latest",
    "progress",
    "place",
    "the end of the message",
    "metrics of the model",
]


def parts_of(report: RunReport) -> set[str]:
    """Which of the parts that may give way are there."""
    model, effective = report.model, report.effective
    there = {
        "parameter groups": effective and effective.parameter_groups,
        "older evaluations": len(report.epochs) > 1,
        "evaluations": report.epochs,
        "early stopped": report.early_stopped,
        "the end of the message": report.message.endswith("."),
        "metrics of the model": model and model.metrics,
    }
    names = set(GIVING_WAY) - there.keys()
    return {
        name for name, found in (there | {name: getattr(report, name) for name in names}).items() if found
    }


def test_with_an_ever_smaller_limit_the_parts_of_a_report_give_way_in_the_documented_order() -> None:
    report = RunReport(
        message="m" * 200 + ".",
        traceback="t" * 100,
        place=FaultPlace(file="f" * 100),
        progress=ProgressStatus(step=1),
        best=CheckpointStatus(step=1),
        latest=CheckpointStatus(step=1),
        early_stopped=EarlyStoppedStatus(step=1, metric="f1", reason="r"),
        epochs=evaluations(2),
        resolved=ResolvedStatus(image="i"),
        effective=EffectiveStatus(
            device="cpu", parameter_groups=[ParameterGroupStatus(name="depth 0, decay", parameters=7)]
        ),
        model=MODEL,
    )
    there, gone = parts_of(report), []
    assert there == set(GIVING_WAY)
    for limit in range(len(to_message(report)), 0, -1):
        left = parts_of(RunReport.model_validate_json(to_message(report, limit=limit)))
        gone += [there - left] if there - left else []
        there = left
    assert [name for (name,) in gone] == GIVING_WAY


def test_a_number_that_is_not_finite_is_left_out() -> None:
    progress = ProgressStatus(step=1, loss=math.nan, grad_norm=math.inf, metrics={"f1": math.nan, "mcc": 0.5})
    report = RunReport(progress=progress, best=CheckpointStatus(step=1, value=-math.inf))
    assert progress.to_json() == {"step": 1, "metrics": {"mcc": 0.5}}
    assert json.loads(to_message(report)) == {
        "progress": {"step": 1, "metrics": {"mcc": 0.5}},
        "best": {"step": 1},
    }


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(all_forms(), indent=2) + "\n")
