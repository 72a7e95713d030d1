"""What a model would predict that never reads a row: the baseline of a model whose head is new. Pure."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_api.objective import RegressionLoss
from finetune_trainer.objectives import Objective

Floats = npt.NDArray[np.float64]
HALVINGS = 60
"""Of an interval, until only rounding is left."""


@dataclass(frozen=True)
class Constant:
    """Outputs of the head (outputs,) that are the same for all rows."""

    likely: npt.NDArray[np.float32]
    """By the frequencies of the labels, or the mean: the most accurate answer."""
    cheapest: npt.NDArray[np.float32]
    """With the smallest mean loss of the run, which may weigh classes, smooth labels or cut large errors."""


def constant_of(objective: Objective[Any], targets: npt.NDArray[Any]) -> Constant:
    """From the training rows; `targets` are those of `Objective.encode`, or of tokens.

    Log frequencies of the labels, each counted once more (Laplace); for several labels a row, log odds.
    """
    assert objective.outputs is not None
    rows = targets.reshape(len(targets), -1)
    if objective.problem_type == "regression":
        numbers = rows.astype(np.float64)
        mean = numbers.mean(axis=0)
        huber = getattr(objective, "kind", None) is RegressionLoss.HUBER
        return _constant(mean, _huber_minimum(numbers) if huber else mean)
    weights = np.asarray(getattr(objective, "class_weights", None) or np.ones(objective.outputs))
    if objective.problem_type == "multi_label_classification":
        with_it, without = rows.sum(axis=0) + 1, len(rows) - rows.sum(axis=0) + 1
        return _constant(np.log(with_it / without), np.log(weights * with_it / without))
    counts = np.bincount(rows[rows >= 0].ravel(), minlength=objective.outputs) + 1.0
    smoothing = getattr(objective, "label_smoothing", 0.0)
    spread = (1 - smoothing) * counts + smoothing * counts.sum() / len(counts)
    return _constant(np.log(counts / counts.sum()), np.log(weights * spread / (weights * spread).sum()))


def _constant(likely: Floats, cheapest: Floats) -> Constant:
    return Constant(likely.astype(np.float32), cheapest.astype(np.float32))


def _huber_minimum(rows: Floats) -> Floats:
    """Where as much error is above as below, each error counted as 1 at most; found by halving."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = np.clip(rows - middle, -1, 1).sum(axis=0) > 0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    minimum: Floats = (low + high) / 2
    return minimum
