"""The interval of a gain: resamples of rows counted exactly, paired, and as wide as theory says."""

import numpy as np
import pytest

from finetune_api.metrics import OBJECTIVES
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.regression import Regression
from finetune_trainer.objectives.token_classification import TokenClassification
from finetune_trainer.training.answers import Keeping, RowAnswers
from finetune_trainer.training.bootstrap import gain_interval

ROWS = 30
RANDOM = np.random.default_rng(1)
WORDS = np.where(RANDOM.random((ROWS, 4)) < 0.3, -100, RANDOM.integers(0, 3, (ROWS, 4)))
KINDS = {
    "classification": (Classification(["a", "b", "c"]), (3,), RANDOM.integers(0, 3, ROWS)),
    "several labels": (
        Classification(["a", "b"], multi_label=True),
        (2,),
        RANDOM.integers(0, 2, (ROWS, 2)).astype(np.float32),
    ),
    "regression": (Regression(), (1,), RANDOM.normal(size=ROWS).astype(np.float32)),
    "regression of two": (Regression(2), (2,), RANDOM.normal(size=(ROWS, 2)).astype(np.float32)),
    "token_classification": (TokenClassification(["a", "b", "c"]), (4, 3), WORDS),
    "causal_lm": (CausalLM(), (4, 2), np.where(WORDS < 0, -100, WORDS)),
}


def kept(objective, outputs, targets):
    """As an evaluation in batches of 7 keeps it, once out of memory in between."""
    import torch

    def predict(examples, batch):
        del examples
        return outputs[batch], torch.from_numpy(targets[batch])

    keeping = Keeping(predict, objective, len(targets))
    with torch.inference_mode():
        for start in (0, 7, 0, 7, 14, 21, 28):
            keeping(None, np.arange(start, min(start + 7, len(targets))))
    return keeping.kept


def scored(objective, outputs, targets):
    """All metrics and the loss, as the evaluation computes them."""
    import torch

    meter = objective.meter()
    meter.update(outputs, torch.from_numpy(targets))
    loss = objective.loss(outputs, torch.from_numpy(targets))
    mean = loss.loss_sum.item() / loss.weight.item()
    return {"loss": mean, **meter.scores(mean)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_of_a_resample_is_that_of_its_rows(kind):
    import torch

    objective, shape, targets = KINDS[kind]
    outputs = torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(2))
    answers = kept(objective, outputs, targets)
    times = np.bincount(np.random.default_rng(3).integers(ROWS, size=ROWS), minlength=ROWS)
    rows = np.repeat(np.arange(ROWS), times)
    expected = scored(objective, outputs[rows], targets[rows])
    names = {"several labels": "classification", "regression of two": "regression"}.get(kind, kind)
    for metric in ["loss", *OBJECTIVES[names]]:
        assert answers.value(metric, objective.meter)(times) == pytest.approx(expected[metric], rel=1e-5), (
            metric
        )


def right(flags):
    """Answers of a classifier that is right where the flag is 1."""
    cells = np.where(np.asarray(flags) == 1, 0, 1)  # of true label 0: predicted 0, or 1
    return RowAnswers(list(cells[:, None]), np.ones((len(cells), 2)))


def interval(one, other, metric="accuracy", sign=1):
    return gain_interval(metric, sign, lambda: Classification(["a", "b"]).meter(), one, other)


def test_the_interval_of_a_share_is_that_of_theory():
    """Of 1,000 rows, 60 right with the combination alone and 30 with the member alone: 0.03 +- 1.96 standard errors."""
    one, other = np.ones(1000), np.ones(1000)
    other[:60], one[60:90] = 0, 0
    low, high = interval(right(one), right(other))
    error = 1.96 * np.sqrt((0.09 - 0.03**2) / 1000)
    assert (low, high) == (pytest.approx(0.03 - error, abs=0.003), pytest.approx(0.03 + error, abs=0.003))
    assert interval(right(other), right(one)) == [pytest.approx(-high), pytest.approx(-low)]


def test_resamples_are_paired():
    """One row is between the two models; apart from that they are right and wrong on the same rows."""
    flags = np.random.default_rng(5).integers(0, 2, 500)
    better = flags.copy()
    better[np.flatnonzero(flags == 0)[0]] = 1
    low, high = interval(right(better), right(flags))
    assert 0 == low < high <= 5 / 500
    assert interval(right(flags), right(flags)) == [0, 0]


def test_a_gain_is_positive_where_the_loss_is_lower():
    losses = np.stack([np.random.default_rng(6).random(200), np.ones(200)], axis=1)
    higher = losses + np.array([0.5, 0.0])
    cells = list(np.zeros((200, 1), dtype=np.int64))
    low, high = interval(RowAnswers(cells, losses), RowAnswers(cells, higher), "loss", -1)
    assert (low, high) == (pytest.approx(0.5), pytest.approx(0.5))


def test_a_metric_that_few_resamples_define_has_no_interval():
    numbers = np.zeros((20, 1, 2, 1))
    numbers[0, 0] = [[1.0], [1.0]]
    answers = RowAnswers(list(numbers), np.ones((20, 2)))
    assert gain_interval("pearson", 1, Regression().meter, answers, answers) is None


def test_one_row_has_no_interval():
    """All its resamples are the same: an interval without width would look certain."""
    losses = [np.asarray([[loss, 1.0]]) for loss in (0.3, 0.5)]
    one, other = (RowAnswers([np.zeros(1)], each) for each in losses)
    assert gain_interval("loss", -1, Regression().meter, one, other) is None
    pair = [RowAnswers([np.zeros(1)] * 2, np.repeat(each, 2, axis=0)) for each in losses]
    assert gain_interval("loss", -1, Regression().meter, *pair) == pytest.approx([0.2, 0.2])
