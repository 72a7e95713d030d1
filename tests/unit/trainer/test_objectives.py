"""Losses and labels against torch's, scikit-learn's and hand-computed values."""

import math

import numpy as np
import pytest

from finetune_api.metrics import OBJECTIVES as METRICS
from finetune_api.objective import ClassificationSpec, ClassWeights, ObjectiveSpec, RegressionSpec
from finetune_trainer.errors import DataError
from finetune_trainer.objectives import OBJECTIVES
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.labels import balanced_weights, label_text, sort_labels
from finetune_trainer.objectives.regression import Regression

LOGITS = [[2.0, -1.0, 0.5], [0.1, 0.2, -0.3], [-1.5, 0.0, 3.0], [0.7, 0.7, 0.7]]
TARGETS = [0, 2, 1, 1]


def test_every_objective_of_the_contract_is_built_and_no_other():
    assert list(OBJECTIVES) == list(ObjectiveSpec.model_fields) == list(METRICS)


def test_cross_entropy_is_the_one_computed_by_hand():
    import torch

    loss = Classification(["a", "b"]).loss(
        torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]), torch.tensor([0, 1])
    )
    assert loss.loss_sum.item() == pytest.approx(math.log(2) + math.log(4))
    assert loss.weight.item() == 2


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 3.0)])
def test_cross_entropy_divided_by_its_weight_is_torchs(smoothing, weights):
    import torch

    logits, targets = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(TARGETS)
    loss = Classification(["a", "b", "c"], smoothing, weights).loss(logits, targets)
    reference = torch.nn.CrossEntropyLoss(
        weight=None if weights is None else torch.tensor(weights, dtype=torch.float64),
        label_smoothing=smoothing,
    )
    assert (loss.loss_sum / loss.weight).item() == pytest.approx(reference(logits, targets).item(), abs=1e-12)


def test_squared_error_divided_by_its_weight_is_torchs():
    import torch

    predicted, targets = torch.tensor([[1.0], [-2.0], [0.5]]), torch.tensor([0.0, -1.0, 3.0])
    loss = Regression().loss(predicted, targets)
    assert loss.loss_sum.item() == pytest.approx(1 + 1 + 6.25)
    assert (loss.loss_sum / loss.weight).item() == pytest.approx(
        torch.nn.MSELoss()(predicted.squeeze(-1), targets).item()
    )


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 7 + [1] * 2 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert balanced_weights(np.bincount(labels)) == pytest.approx(tuple(expected))
    spec = ClassificationSpec(class_weights=ClassWeights.BALANCED)
    built = Classification.build(spec, ["0", "1", "2"], [str(label) for label in labels])
    assert built.class_weights == pytest.approx(tuple(expected))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("pos", "pos"),
        (3, "3"),
        (-1, "-1"),
        (True, "true"),
        (False, "false"),
        (2.0, "2"),
        ("2", "2"),
        ("ü", "ü"),
    ],
)
def test_labels_are_compared_by_their_string_form(value, text):
    assert label_text(value) == text


@pytest.mark.parametrize(
    ("value", "why"),
    [(None, "null"), (0.5, "objective.regression"), ([1], "list"), ("", "0 characters"), ("x" * 129, "129")],
)
def test_what_is_no_label_says_why(value, why):
    with pytest.raises(ValueError, match=why):
        label_text(value)


def test_labels_are_sorted_by_number_where_all_are_numbers():
    assert sort_labels({"10", "9", "1"}) == ["1", "9", "10"]
    assert sort_labels({"10", "9", "b"}) == ["10", "9", "b"]


def test_labels_of_the_spec_fix_the_ids():
    spec = ClassificationSpec(labels=["pos", "neg"])
    assert Classification.found_labels(spec, ["neg"], "x") == ["pos", "neg"]
    assert Classification(["pos", "neg"]).encode(["neg", "pos"]).tolist() == [1, 0]


def test_one_label_or_a_thousand_is_a_mistake_in_the_data():
    with pytest.raises(DataError, match="one label only, 'a'"):
        Classification.found_labels(ClassificationSpec(), ["a", "a"], "x.jsonl")
    with pytest.raises(DataError, match=r"objective\.regression"):
        Classification.found_labels(ClassificationSpec(), [str(i) for i in range(1001)], "x.jsonl")


@pytest.mark.parametrize("value", [None, True, "abc", math.nan, math.inf, "1e999", [], 1e300])
def test_a_number_to_predict_is_finite(value):
    with pytest.raises(ValueError, match="finite number"):
        Regression.read_label(RegressionSpec(), value, None)


def test_numbers_may_be_written_as_texts():
    assert Regression.read_label(RegressionSpec(), "-1.5", None) == -1.5
    assert Regression.build(RegressionSpec(), None, []).encode([1.0, 2.5]).tolist() == [1.0, 2.5]
