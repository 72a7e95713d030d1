"""Metrics against scikit-learn and SciPy: 10,000 random cases in all."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from finetune_api.metrics import CLASSIFICATION, REGRESSION
from finetune_trainer.objectives.scores import (
    classification_scores,
    multi_label_scores,
    perplexity,
    regression_scores,
)

HEADLINES = ["precision", "recall", "f1"]


def confusion(true, predicted, classes):
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (true, predicted), 1)
    return matrix


def several_labels(true, predicted):
    counts = (true & predicted).sum(axis=0), true.sum(axis=0), predicted.sum(axis=0)
    return multi_label_scores(*counts, len(true), int((true == predicted).all(axis=1).sum()))


def close(ours, theirs, tolerance=1e-9):
    """np.allclose, as pytest.approx is slow for thousands of numbers."""
    assert np.shape(ours) == np.shape(theirs)
    return np.allclose(ours, theirs, rtol=tolerance, atol=1e-9)


def by_column(true, predicted):
    """scikit-learn's precision, recall and F1 of every column; one call for thousands of cases, as each takes 10 ms."""
    return metrics.precision_recall_fscore_support(true, predicted, zero_division=0)[:3]


def test_two_labels_in_3_000_random_cases_are_scored_as_by_scikit_learn():
    random = np.random.default_rng(0)
    for rows in (1, 3, 40):
        rates = random.random(1000)  # labels that never or always occur among them
        true, predicted = (random.random((2, rows, 1000)) < rates).astype(int)
        found = [classification_scores(confusion(t, p, 2)) for t, p in zip(true.T, predicted.T, strict=True)]
        theirs = dict(zip(HEADLINES, by_column(true, predicted), strict=True))
        theirs["accuracy"] = theirs["f1_micro"] = (true == predicted).mean(axis=0)
        for name, expected in theirs.items():
            assert close([scores[name] for scores in found], expected), name


def test_four_classes_in_1_500_random_cases_are_scored_as_by_scikit_learn():
    """Each class against the others in scikit-learn; then the mean over those that occur."""
    random = np.random.default_rng(1)
    for rows in (2, 5, 30):
        true, predicted = random.integers(0, 4, (2, 500, rows))
        predicted = np.where(random.random((500, rows)) < 0.5, true, predicted)
        found = [classification_scores(confusion(t, p, 4)) for t, p in zip(true, predicted, strict=True)]
        decisions = [np.moveaxis(np.eye(4, dtype=int)[ids], 1, 0) for ids in (true, predicted)]
        occurs = (decisions[0] | decisions[1]).any(axis=0)
        by_class = by_column(*(each.reshape(rows, -1) for each in decisions))
        for name, values in zip(HEADLINES, by_class, strict=True):
            macro = values.reshape(500, 4).mean(axis=1, where=occurs)
            assert close([scores[name] for scores in found], macro), name
        assert close([scores["accuracy"] for scores in found], (true == predicted).mean(axis=1))
        one = metrics.f1_score(true[0], predicted[0], average="macro", zero_division=0)
        assert close(found[0]["f1_macro"], one)


@pytest.mark.filterwarnings("ignore:A single label was found")
def test_matthews_correlation_in_300_random_cases_is_scikit_learns():
    random = np.random.default_rng(2)
    for _ in range(300):
        classes, rows = random.integers(2, 6), random.integers(1, 30)
        true, predicted = random.integers(0, classes, (2, rows))
        ours = classification_scores(confusion(true, predicted, classes))["mcc"]
        assert close(ours, metrics.matthews_corrcoef(true, predicted))


def test_several_labels_a_row_in_1_000_random_cases_are_scored_as_by_scikit_learn():
    random = np.random.default_rng(3)
    for rows in (1, 30):
        rates = random.random((500, 1, 4))
        true, predicted = (random.random((2, 500, rows, 4)) < rates).astype(int)
        found = [several_labels(t, p) for t, p in zip(true, predicted, strict=True)]
        by_label = by_column(*(np.moveaxis(each, 1, 0).reshape(rows, -1) for each in (true, predicted)))
        theirs = {
            name: values.reshape(500, 4).mean(axis=1)
            for name, values in zip(HEADLINES, by_label, strict=True)
        }
        theirs["f1_macro"] = theirs["f1"]
        theirs["f1_micro"] = by_column(true.reshape(500, -1).T, predicted.reshape(500, -1).T)[2]
        theirs["accuracy"] = (true == predicted).all(axis=2).mean(axis=1)
        for name, expected in theirs.items():
            assert close([scores[name] for scores in found], expected), name
        one = metrics.f1_score(true[0], predicted[0], average="micro", zero_division=0)
        assert close(found[0]["f1_micro"], one)


def test_matthews_correlation_of_several_labels_is_the_mean_over_them():
    random = np.random.default_rng(4)
    true, predicted = random.integers(0, 2, (2, 30, 20))
    predicted[:, 0] = 1
    expected = [metrics.matthews_corrcoef(t, p) for t, p in zip(true.T, predicted.T, strict=True)]
    assert several_labels(true, predicted)["mcc"] == pytest.approx(np.mean(expected))


def test_numbers_in_4_200_random_cases_are_scored_as_by_scikit_learn_and_scipy():
    random = np.random.default_rng(5)
    for rows in (4, 50):
        targets = random.normal(size=(rows, 2100)) * 10.0 ** random.integers(0, 4, 2100)
        predictions = np.round(targets + random.normal(size=(rows, 2100)), 1)
        targets = np.round(targets, 1)  # so that ranks are shared
        found = [regression_scores(p, t) for p, t in zip(predictions.T, targets.T, strict=True)]
        raw = {"multioutput": "raw_values"}
        ranks = stats.rankdata(predictions, axis=0), stats.rankdata(targets, axis=0)
        theirs = {
            "mse": metrics.mean_squared_error(targets, predictions, **raw),
            "rmse": metrics.root_mean_squared_error(targets, predictions, **raw),
            "mae": metrics.mean_absolute_error(targets, predictions, **raw),
            "r2": metrics.r2_score(targets, predictions, **raw),
            "pearson": stats.pearsonr(targets, predictions, axis=0).statistic,
            "spearman": stats.pearsonr(*ranks, axis=0).statistic,
        }
        assert list(theirs) == list(REGRESSION)
        for name, expected in theirs.items():
            assert close([scores[name] for scores in found], expected), name


def test_spearman_is_scipys():
    random = np.random.default_rng(6)
    predictions, targets = np.round(random.normal(size=(2, 40)), 1)
    expected = stats.spearmanr(targets, predictions).statistic
    assert regression_scores(predictions, targets)["spearman"] == pytest.approx(expected)


def test_scores_of_several_targets_are_the_means_over_them():
    random = np.random.default_rng(7)
    targets = random.normal(size=(30, 3)) * [1, 10, 100]
    predictions = targets + random.normal(size=(30, 3))
    ours = regression_scores(predictions, targets)
    assert ours["r2"] == pytest.approx(metrics.r2_score(targets, predictions))
    assert ours["rmse"] == pytest.approx(metrics.root_mean_squared_error(targets, predictions))
    assert ours["pearson"] == pytest.approx(np.mean(stats.pearsonr(targets, predictions, axis=0).statistic))


def test_perplexity_is_the_exponential_of_the_loss_or_infinite():
    assert perplexity(0.0) == 1
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert perplexity(1e4) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_the_correlation_of_a_constant_is_not_a_number():
    scores = regression_scores(np.ones(4), np.array([1.0, 2.0, 3.0, 4.0]))
    assert math.isnan(scores["pearson"])
    assert math.isnan(scores["spearman"])
    assert scores["mse"] == pytest.approx(3.5)


def test_every_metric_of_the_contract_is_computed():
    assert set(classification_scores(np.eye(2, dtype=np.int64))) == set(CLASSIFICATION)
    assert set(multi_label_scores(*np.ones((3, 2), dtype=np.int64), 1, 1)) == set(CLASSIFICATION)
    assert set(regression_scores(np.arange(3.0), np.arange(3.0))) == set(REGRESSION)
