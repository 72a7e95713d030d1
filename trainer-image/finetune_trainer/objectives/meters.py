"""Meters reduce the logits of a batch on their device and keep counts, or two numbers per target.

Outputs that are NaN or infinite are no answer: a row or token with one is wrong whatever its label, and the metrics of
a regression are then not defined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.objectives.base import IGNORED, Answers, Meter, Parts
from finetune_trainer.objectives.scores import (
    classification_scores,
    multi_label_scores,
    perplexity,
    regression_scores,
)

if TYPE_CHECKING:
    from torch import Tensor

Ints = npt.NDArray[np.int64]
THRESHOLD = 0.5
"""Probability from which on a text has a label (several labels)."""


class ConfusionMeter(Meter):
    """A confusion matrix: all that the metrics of one label need, whatever the number of rows or words."""

    def __init__(self, classes: int) -> None:
        self.matrix = np.zeros((classes, classes + 1), dtype=np.int64)
        """The last column counts rows without an answer."""

    def reduce(self, logits: Tensor, targets: Tensor) -> Answers:
        """The cell of the matrix, counted by rows, for every row, or for every token that has a label."""
        counted = targets != IGNORED
        answers = logits.argmax(dim=-1).where(logits.isfinite().all(dim=-1), len(self.matrix))
        true, predicted = targets[counted], answers[counted]
        lengths = counted.reshape(len(targets), -1).sum(dim=1)
        return Answers((true * self.matrix.shape[1] + predicted).cpu().numpy(), lengths.cpu().numpy())

    def count(self, values: Ints, times: Ints | None = None) -> None:
        """Count cells (entries,)."""
        found = np.bincount(values, weights=times, minlength=self.matrix.size)
        self.matrix += found.astype(np.int64).reshape(self.matrix.shape)

    def parts(self) -> Parts:
        """The matrix."""
        return (self.matrix,)

    def add(self, parts: Parts) -> None:
        """Add another meter's counts."""
        self.matrix += parts[0]

    def scores(self, loss: float) -> dict[str, float]:
        """The metrics of finetune_api.metrics.CLASSIFICATION."""
        del loss
        return classification_scores(self.matrix)


class LabelSetMeter(Meter):
    """For several labels a row: counts by label, and how many rows were wholly right."""

    def __init__(self, labels: int) -> None:
        self.counts = np.zeros((3, labels), dtype=np.int64)
        """Hits, true and predicted labels."""
        self.rows = np.zeros(2, dtype=np.int64)
        """Rows, and those whose labels are all right."""

    def reduce(self, logits: Tensor, targets: Tensor) -> Answers:
        """True and predicted labels (rows, 2, labels) for logits (rows, labels), targets being 0 and 1."""
        true = targets > THRESHOLD
        answered = logits.isfinite().all(dim=-1, keepdim=True)
        predicted = (logits.sigmoid() >= THRESHOLD).where(answered, ~true)
        return _one_a_row(true, predicted)

    def count(self, values: npt.NDArray[np.bool_], times: Ints | None = None) -> None:
        """Count true and predicted labels (rows, 2, labels)."""
        weights = np.ones(len(values), dtype=np.int64) if times is None else times
        true, predicted = values[:, 0], values[:, 1]
        for line, decisions in enumerate((predicted & true, true, predicted)):
            self.counts[line] += weights @ decisions
        self.rows += [weights.sum(), weights @ (predicted == true).all(axis=1)]

    def parts(self) -> Parts:
        """The counts."""
        return self.counts, self.rows

    def add(self, parts: Parts) -> None:
        """Add another meter's counts."""
        self.counts += parts[0]
        self.rows += parts[1]

    def scores(self, loss: float) -> dict[str, float]:
        """The metrics of finetune_api.metrics.CLASSIFICATION."""
        del loss
        return multi_label_scores(*self.counts, *self.rows.tolist())


class PairMeter(Meter):
    """Two numbers a target: rank correlation needs them all."""

    def __init__(self, shift: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> None:
        self.shift, self.scale = shift, scale
        empty = np.zeros((0, len(shift)))
        self.predictions: list[npt.NDArray[Any]] = [empty]
        self.targets: list[npt.NDArray[Any]] = [empty]

    def reduce(self, logits: Tensor, targets: Tensor) -> Answers:
        """Predicted and true numbers (rows, 2, targets) in their original units."""
        values, lengths = _one_a_row(logits.double(), targets.reshape(logits.shape).double())
        return Answers(values * self.scale + self.shift, lengths)

    def count(self, values: npt.NDArray[np.float64], times: Ints | None = None) -> None:
        """Keep predicted and true numbers (rows, 2, targets)."""
        kept = values if times is None else np.repeat(values, times, axis=0)
        self.add((kept[:, 0], kept[:, 1]))

    def parts(self) -> Parts:
        """Predictions and targets, both (rows, targets)."""
        return np.concatenate(self.predictions), np.concatenate(self.targets)

    def add(self, parts: Parts) -> None:
        """Append another meter's pairs."""
        self.predictions.append(parts[0])
        self.targets.append(parts[1])

    def scores(self, loss: float) -> dict[str, float]:
        """The metrics of finetune_api.metrics.REGRESSION, in original units."""
        del loss
        return regression_scores(*self.parts())


class NextTokenMeter(Meter):
    """How many of the predicted tokens were right."""

    def __init__(self) -> None:
        self.counts = np.zeros(2, dtype=np.int64)
        """Predicted tokens, and those that were right."""

    def reduce(self, outputs: Tensor, targets: Tensor) -> Answers:
        """Predicted and right tokens of each row (rows, 2), from what `CausalLM.compute` gives."""
        return _one_a_row((targets[:, 1:] != IGNORED).sum(dim=1), (outputs[..., 1] == 1).sum(dim=1))

    def count(self, values: Ints, times: Ints | None = None) -> None:
        """Count predicted and right tokens (rows, 2)."""
        self.counts += values.sum(axis=0) if times is None else times @ values

    def parts(self) -> Parts:
        """The counts."""
        return (self.counts,)

    def add(self, parts: Parts) -> None:
        """Add another meter's counts."""
        self.counts += parts[0]

    def scores(self, loss: float) -> dict[str, float]:
        """The metrics of finetune_api.metrics.LANGUAGE."""
        tokens, hits = self.counts.tolist()
        return {"perplexity": perplexity(loss), "accuracy": hits / tokens if tokens else float("nan")}


def _one_a_row(one: Tensor, other: Tensor) -> Answers:
    """Two tensors (rows, …) side by side (rows, 2, …)."""
    import torch

    values = torch.stack([one, other], dim=1).cpu().numpy()
    return Answers(values, np.ones(len(values), dtype=np.int64))
