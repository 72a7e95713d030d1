"""Labels: how they are read, found, weighed and turned into targets."""

import math
from decimal import Decimal

import numpy as np
import pytest

from finetune_api.metrics import OBJECTIVES as METRICS
from finetune_api.objective import (
    ClassificationSpec,
    ClassWeights,
    ObjectiveSpec,
    RegressionSpec,
    TokenClassificationSpec,
)
from finetune_trainer.errors import DataError
from finetune_trainer.objectives import OBJECTIVES
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.labels import balanced_weights, label_text, sort_labels
from finetune_trainer.objectives.regression import Regression
from finetune_trainer.objectives.token_classification import TokenClassification


def test_every_objective_of_the_contract_is_built_and_no_other():
    assert list(OBJECTIVES) == list(ObjectiveSpec.model_fields) == list(METRICS)


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
    [(None, "null"), (0.5, "objective.regression"), ([1], "list"), ("", "is empty"), ("x" * 129, "129")],
)
def test_what_is_no_label_says_why(value, why):
    with pytest.raises(ValueError, match=why):
        label_text(value)


def test_labels_are_sorted_by_number_where_all_are_numbers():
    assert sort_labels({"10", "9", "1"}) == ["1", "9", "10"]
    assert sort_labels({"10", "9", "b"}) == ["10", "9", "b"]


def test_balanced_weights_of_several_labels_are_rows_without_by_rows_with():
    spec = ClassificationSpec(class_weights=ClassWeights.BALANCED, multi_label=True)
    values = [("a",), ("a", "b"), (), ("a",)]
    assert Classification.build(spec, ["a", "b", "c"], values).class_weights == pytest.approx((1 / 3, 3, 1))


def test_balanced_weights_of_words_are_counted_on_the_training_labels():
    spec = TokenClassificationSpec(class_weights=ClassWeights.BALANCED)
    built = TokenClassification.build(spec, ["O", "X"], [("O", "O", "X"), ("O",)])
    assert built.class_weights == pytest.approx((4 / 6, 4 / 2))


def test_several_labels_become_zeros_and_ones_and_words_become_ids():
    several = Classification(["a", "b"], multi_label=True)
    assert several.encode([("b",), (), ("b", "a")]).tolist() == [[0, 1], [0, 0], [1, 1]]
    words = TokenClassification(["O", "X"]).encode([("O", "X"), ("X",)])
    assert [ids.tolist() for ids in words] == [[0, 1], [1]]


def test_lists_are_read_and_their_mistakes_named():
    several = ClassificationSpec(multi_label=True)
    assert Classification.read_label(several, ["b", 1, "b"], None) == ("b", "1")
    assert Classification.read_label(several, [], None) == ()
    assert Classification.found_labels(several, [("b",), (), ("a", "b")], "x") == ["a", "b"]
    assert TokenClassification.read_label(TokenClassificationSpec(), ["O", "O"], None) == ("O", "O")
    assert Regression.read_label(RegressionSpec(targets=2), [1, "2.5"], None) == (1.0, 2.5)
    for read, why in (
        (lambda: Classification.read_label(several, "a", None), "not a list of labels but a text"),
        (lambda: Classification.read_label(several, ["a", "c"], ["a", "b"]), "'c', which is not one of a, b"),
        (lambda: TokenClassification.read_label(TokenClassificationSpec(), [None], None), "null"),
        (lambda: Regression.read_label(RegressionSpec(targets=2), [1], None), "has 1 numbers"),
        (lambda: Regression.read_label(RegressionSpec(targets=2), 1, None), "not a list of 2 numbers"),
        (lambda: Regression.read_label(RegressionSpec(targets=2), [1, math.nan], None), "finite"),
    ):
        with pytest.raises(ValueError, match=why):
            read()


def test_rows_without_any_label_are_a_mistake_in_the_data():
    with pytest.raises(DataError, match="no label"):
        Classification.found_labels(ClassificationSpec(multi_label=True), [(), ()], "x.jsonl")


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


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1])
def test_targets_that_differ_by_rounding_alone_are_not_normalised_by_it(value):
    spec = RegressionSpec(normalize=True)
    learned = Regression.build(spec, None, [value] * 7).encode([value, value + 1])
    assert learned.tolist() == pytest.approx([0, 1], abs=1e-6)


def test_numbers_may_be_written_as_decimals_of_databases():
    assert Regression.read_label(RegressionSpec(), Decimal("0.5"), None) == 0.5


def test_numbers_may_be_written_as_texts():
    assert Regression.read_label(RegressionSpec(), "-1.5", None) == -1.5
    assert Regression.build(RegressionSpec(), None, []).encode([1.0, 2.5]).tolist() == [1.0, 2.5]


@pytest.mark.parametrize("value", [[1, 0, 1], [1.0, 0.0, 1.0], [True, False, True], ["0", "1", "0"], [0, 0]])
def test_a_number_for_every_label_is_refused(value):
    several = ClassificationSpec(multi_label=True)
    with pytest.raises(ValueError, match=r"looks like one number for every label.*write the names"):
        Classification.read_label(several, value, None)


def test_a_number_for_each_of_two_labels_shows_over_all_rows_only():
    several = ClassificationSpec(multi_label=True)
    with pytest.raises(DataError, match="every row has both labels, 0 and 1"):
        Classification.found_labels(several, [("0", "1"), ("1", "0")], "a.jsonl")
    assert Classification.found_labels(several, [("0", "1"), ("1",)], "a.jsonl") == ["0", "1"]


@pytest.mark.parametrize("ignored", [-100, -100.0, "-100"])
def test_a_word_labelled_minus_100_is_ignored(ignored):
    spec = TokenClassificationSpec(class_weights="Balanced")
    value = TokenClassification.read_label(spec, ["O", ignored, "B"], ["B", "O"])
    labels = TokenClassification.found_labels(TokenClassificationSpec(), [value], "a.jsonl")
    objective = TokenClassification.build(spec, labels, [value])
    assert labels == ["B", "O"]
    assert [ids.tolist() for ids in objective.encode([value])] == [[1, -100, 0]]
    assert objective.class_weights == (1.0, 1.0)


def test_a_text_labelled_minus_100_is_refused():
    with pytest.raises(ValueError, match=r"-100, which means 'ignored'"):
        Classification.read_label(ClassificationSpec(), -100, None)
