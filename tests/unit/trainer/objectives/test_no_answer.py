"""Outputs that are NaN or infinite are no answer: they count as wrong and are named, and none is published."""

import math

import numpy as np
import pytest

from finetune_api.run import ExitCode
from finetune_trainer.errors import DivergedError
from finetune_trainer.objectives.meters import ConfusionMeter, LabelSetMeter, NextTokenMeter
from finetune_trainer.objectives.regression import Regression
from finetune_trainer.publishing.folder import check_finite
from unit.trainer.next_token import outputs_of
from unit.trainer.runs import a_run
from unit.trainer.tiny import reviews

NOT_FINITE = [float("nan"), float("inf"), float("-inf")]


def scores(meter, logits, targets, computed=lambda logits, _: logits):
    import torch

    expected = torch.tensor(targets)
    meter.update(computed(torch.tensor(logits), expected), expected)
    return meter.scores(1.0)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("label", [0, 1])
def test_a_row_without_an_answer_is_wrong_whatever_its_label(value, label):
    found = scores(
        ConfusionMeter(2), [[2.0, 1.0], [1.0, 2.0], [value, value], [value, 0.0]], [0, 1, label, label]
    )
    assert found["accuracy"] == 0.5
    assert found["recall"] == (1 / 3 if label == 1 else 1.0)
    assert found["precision"] == 1.0
    assert found["mcc"] < 1


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("truth", [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
def test_with_several_labels_too(value, truth):
    found = scores(LabelSetMeter(2), [[3.0, -3.0], [value, -3.0]], [[1.0, 0.0], truth])
    assert found["accuracy"] == 0.5
    assert found["f1_micro"] < 1
    assert found["mcc"] < 1


@pytest.mark.parametrize("value", NOT_FINITE)
def test_of_words_and_of_tokens_too(value):
    words = scores(ConfusionMeter(2), [[[2.0, 1.0], [value, 1.0], [value, value]]], [[0, 0, -100]])
    assert words["accuracy"] == 0.5
    answers = [[[2.0, 1.0], [value, 1.0], [1.0, 1.0]]]
    tokens = scores(NextTokenMeter(), answers, [[1, 0, 0]], outputs_of)
    assert tokens["accuracy"] == 0.5


@pytest.mark.parametrize("value", NOT_FINITE)
def test_no_metric_of_a_regression_is_defined_with_one(value):
    found = scores(Regression().meter(), [[1.0], [2.0], [value]], [1.0, 2.5, 3.0])
    assert all(math.isnan(score) for score in found.values())
    assert {"mse", "spearman", "r2"} <= found.keys()


@pytest.mark.parametrize(
    "objective", ["classification", "several labels", "regression", "token classification"]
)
def test_an_evaluation_names_the_rows_as_training_does(objective, caplog):
    run, _ = a_run(objective)

    def predict(examples, batch):
        logits, targets = run.task.predict(examples, batch)
        logits[np.isin(batch, [3, 7])] = math.nan
        return logits, targets

    with caplog.at_level("WARNING", logger="finetune_trainer"):
        found = run.evaluator.evaluate(run.validation, 4, predict)
    assert (
        "the outputs for 2 of 23 rows are NaN or infinite, and count as wrong: train.jsonl row 4, 8"
        in caplog.text
    )
    assert math.isnan(found["loss"])


def test_a_run_whose_best_metric_was_never_defined_is_no_success(make_job):
    alike = [row | {"rating": 3.0} for row in reviews(16, start=900)]
    made = make_job(
        objective={"regression": {}},
        dataset={"columns": {"label": "rating"}, "split": None},
        training={"evaluation": {"bestMetric": "pearson"}},
    )
    made = made.changed({"dataset": {"validation": {"path": str(_file(made.folder, alike))}}})
    assert made.run() == ExitCode.DIVERGED
    assert "pearson was not defined in any of the 2 evaluations" in made.report.message
    assert made.report.place.field == "training.evaluation.bestMetric"
    assert not made.model_dir.exists()


@pytest.mark.parametrize("since", [0, 1])
def test_a_model_whose_outputs_are_all_nan_is_not_published(make_job, monkeypatch, since):
    from finetune_trainer.training.evaluator import Evaluator
    from finetune_trainer.training.task import Task

    evaluations, evaluate, outputs = [], Evaluator.evaluate, Task.outputs

    def counted(evaluator, *rows):
        evaluations.append(rows)
        return evaluate(evaluator, *rows)

    def broken(task, *rows):
        logits, targets = outputs(task, *rows)
        return (logits * math.nan if len(evaluations) > since else logits), targets

    monkeypatch.setattr(Evaluator, "evaluate", counted)
    monkeypatch.setattr(Task, "outputs", broken)
    made = make_job(training={"epochs": 2, "evaluation": {"bestMetric": "accuracy"}})
    assert made.run() == ExitCode.DIVERGED
    assert "accuracy" in made.report.message
    assert "NaN or infinite" in made.report.message
    assert not made.model_dir.exists()


def _file(folder, rows):
    from unit.trainer.tiny import write_jsonl

    return write_jsonl(folder / "validation.jsonl", rows)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tensor_that_is_not_finite_is_named_and_not_published(tmp_path, value, dtype):
    import torch
    from safetensors.torch import save_file

    tensor = torch.zeros(4, 3, dtype=getattr(torch, dtype))
    whole = {"count": torch.arange(3), "good": tensor.clone()}
    save_file(whole, tmp_path / "model.safetensors")
    check_finite(tmp_path)
    tensor[1, 2] = value
    (tmp_path / "members").mkdir()
    save_file({"head.weight": tensor}, tmp_path / "members" / "custom_head.safetensors")
    with pytest.raises(DivergedError, match=r"1 of the 12 numbers of head.weight in custom_head.safetensors"):
        check_finite(tmp_path)
