"""Metrics against scikit-learn and SciPy."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.metrics import CLASSIFICATION, REGRESSION
from finetune_trainer.scores import classification_scores, regression_scores


def confusion(true, predicted, classes):
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (true, predicted), 1)
    return matrix


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(2, 5), st.integers(1, 40))
def test_classification_metrics_are_scikit_learns(data, classes, rows):
    from sklearn import metrics

    labels = st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)
    true, predicted = data.draw(labels), data.draw(labels)
    ours = classification_scores(confusion(true, predicted, classes))
    average = {"average": "binary"} if classes == 2 else {"average": "macro"}
    occurring = sorted({*true, *predicted})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {
            "accuracy": metrics.accuracy_score(true, predicted),
            "f1": metrics.f1_score(true, predicted, zero_division=0, **average),
            "f1_micro": metrics.f1_score(true, predicted, average="micro", labels=occurring),
            "f1_macro": metrics.f1_score(true, predicted, average="macro", zero_division=0),
            "precision": metrics.precision_score(true, predicted, zero_division=0, **average),
            "recall": metrics.recall_score(true, predicted, zero_division=0, **average),
            "mcc": metrics.matthews_corrcoef(true, predicted),
        }
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_regression_metrics_are_scikit_learns_and_scipys():
    from scipy import stats
    from sklearn import metrics

    random = np.random.default_rng(0)
    for _ in range(20):
        targets = np.round(random.normal(size=50), 1)
        predictions = np.round(targets + random.normal(size=50), 1)
        assert regression_scores(predictions, targets) == pytest.approx(
            {
                "mse": metrics.mean_squared_error(targets, predictions),
                "rmse": metrics.root_mean_squared_error(targets, predictions),
                "mae": metrics.mean_absolute_error(targets, predictions),
                "r2": metrics.r2_score(targets, predictions),
                "pearson": stats.pearsonr(targets, predictions).statistic,
                "spearman": stats.spearmanr(targets, predictions).statistic,
            }
        )


def test_the_correlation_of_a_constant_is_not_a_number():
    scores = regression_scores(np.ones(4), np.array([1.0, 2.0, 3.0, 4.0]))
    assert math.isnan(scores["pearson"])
    assert math.isnan(scores["spearman"])
    assert scores["mse"] == pytest.approx(3.5)


def test_every_metric_of_the_contract_is_computed():
    assert set(classification_scores(np.eye(2, dtype=np.int64))) == set(CLASSIFICATION)
    assert set(regression_scores(np.arange(3.0), np.arange(3.0))) == set(REGRESSION)
