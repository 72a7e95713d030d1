"""What a report says: of our own trainer, and of any script that uses Hugging Face's Trainer."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.status import ProgressStatus
from finetune_core.decide.report_body import parse_report
from finetune_core.decide.reports import with_report
from unit.operator.test_observe import JSON
from unit.operator.worlds import FineTuneJobStatus, seconds


def hugging_face(**fields: Any) -> ProgressStatus:
    found = parse_report({"trainerStatus": fields}).progress
    assert found
    return found


def metrics(**values: Any) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def test_a_hugging_face_status_becomes_progress() -> None:
    reported = metrics(
        loss="1.25", learning_rate="5e-05", grad_norm="0.7", current_step="12", total_steps="100", epoch="0.4"
    )
    found = hugging_face(progressPercentage=12, estimatedRemainingSeconds=90, metrics=reported)
    assert found == ProgressStatus(
        percent=12,
        step=12,
        total_steps=100,
        epoch=0.4,
        loss=1.25,
        learning_rate=5e-5,
        grad_norm=0.7,
        eta_seconds=90,
    )


def test_other_numbers_are_kept_and_texts_are_not() -> None:
    found = hugging_face(metrics=metrics(eval_accuracy="0.9", note="hello", nothing=None, yes=True))
    assert found.metrics == {"eval_accuracy": 0.9, "yes": 1.0}


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", float("nan"), "1e999", None, [], {}, "x" * 99])
def test_a_number_that_is_none_is_left_out(value: Any) -> None:
    found = hugging_face(
        progressPercentage=value,
        estimatedRemainingSeconds=value,
        metrics=metrics(loss=value, current_step=value),
    )
    assert found == ProgressStatus()


@pytest.mark.parametrize(("given_", "percent"), [(-5, 0), (250, 100), ("34", 34), (33.9, 33)])
def test_a_percentage_is_one(given_: Any, percent: int) -> None:
    assert hugging_face(progressPercentage=given_).percent == percent


@pytest.mark.parametrize("step", ["-1", "1e300"])
def test_a_step_that_no_training_can_reach_is_left_out(step: str) -> None:
    assert hugging_face(metrics=metrics(current_step=step)).step is None


def test_at_most_32_further_metrics_are_kept() -> None:
    found = hugging_face(metrics=metrics(**{f"m{number}": number for number in range(100)}))
    assert len(found.metrics or {}) == 32


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "x",
        {},
        {"trainerStatus": []},
        {"runReport": None},
        {"runReport": {}},
        {"runReport": {"a": 1}},
    ],
)
def test_a_body_without_a_report_is_refused(body: Any) -> None:
    with pytest.raises(ValueError):
        parse_report(body)


@given(JSON | st.fixed_dictionaries({"trainerStatus": JSON}) | st.fixed_dictionaries({"runReport": JSON}))
@settings(max_examples=100, deadline=None)
def test_any_body_is_a_report_that_can_be_written_or_is_refused(body: Any) -> None:
    try:
        report = parse_report(body)
    except ValueError:
        return
    status = with_report(FineTuneJobStatus(), report, seconds(0))
    assert FineTuneJobStatus.from_json(status.to_json()) == status


STATUS_FIELDS = ("progressPercentage", "estimatedRemainingSeconds", "metrics")


@given(st.fixed_dictionaries(dict.fromkeys(STATUS_FIELDS, JSON)))
@settings(max_examples=100, deadline=None)
def test_any_trainer_status_is_a_report_that_can_be_written(status: Any) -> None:
    written = with_report(FineTuneJobStatus(), parse_report({"trainerStatus": status}), seconds(0))
    assert FineTuneJobStatus.from_json(written.to_json()) == written


def test_a_report_of_ours_is_read_without_what_cannot_be_said() -> None:
    raw = {
        "progress": {"step": 3, "loss": float("nan"), "gradNorm": "high"},
        "epochs": [{"epoch": float("inf"), "step": 1}, {"epoch": 1.0, "step": 2, "evalLoss": 0.5}],
        "hologram": True,
    }
    report = parse_report({"runReport": raw})
    assert report.progress == ProgressStatus(step=3)
    assert [epoch.step for epoch in report.epochs] == [2]


def test_evaluations_are_merged_by_step_and_the_newest_fifty_kept() -> None:
    status = FineTuneJobStatus()
    for start in (0, 30, 60):
        epochs = [{"epoch": float(step), "step": step} for step in range(start, start + 40)]
        status = with_report(status, parse_report({"runReport": {"epochs": epochs}}), seconds(0))
    assert [epoch.step for epoch in status.epochs] == list(range(50, 100))
