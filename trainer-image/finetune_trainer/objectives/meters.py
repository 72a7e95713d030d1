"""Meters reduce the logits of a batch on their device and keep counts, or two numbers per target.

Outputs that are NaN or infinite are no answer: a row or token with one is wrong whatever its label, and the metrics of
a regression are then not defined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.objectives.base import IGNORED, Parts
from finetune_trainer.objectives.scores import (
    classification_scores,
    multi_label_scores,
    perplexity,
    regression_scores,
)

if TYPE_CHECKING:
    from torch import Tensor

THRESHOLD = 0.5
"""Probability from which on a text has a label (several labels)."""


class ConfusionMeter:
    """A confusion matrix: all that the metrics of one label need, whatever the number of rows or words."""

    def __init__(self, classes: int) -> None:
        self.matrix = np.zeros((classes, classes + 1), dtype=np.int64)
        """The last column counts rows without an answer."""

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count the predicted label of every row, or of every token that has a label."""
        counted = targets != IGNORED
        answers = logits.argmax(dim=-1).where(logits.isfinite().all(dim=-1), len(self.matrix))
        true, predicted = targets[counted], answers[counted]
        pairs = (true * self.matrix.shape[1] + predicted).cpu().numpy()
        np.add.at(self.matrix.reshape(-1), pairs, 1)

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


class LabelSetMeter:
    """For several labels a row: counts by label, and how many rows were wholly right."""

    def __init__(self, labels: int) -> None:
        self.counts = np.zeros((3, labels), dtype=np.int64)
        """Hits, true and predicted labels."""
        self.rows = np.zeros(2, dtype=np.int64)
        """Rows, and those whose labels are all right."""

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count logits (rows, labels) against 0 and 1 (rows, labels)."""
        true = targets > THRESHOLD
        answered = logits.isfinite().all(dim=-1, keepdim=True)
        predicted = (logits.sigmoid() >= THRESHOLD).where(answered, ~true)
        for line, decisions in enumerate((predicted & true, true, predicted)):
            self.counts[line] += decisions.sum(dim=0).cpu().numpy()
        self.rows += [len(targets), int((predicted == true).all(dim=1).sum())]

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


class PairMeter:
    """Two numbers a target: rank correlation needs them all."""

    def __init__(self, shift: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> None:
        self.shift, self.scale = shift, scale
        empty = np.zeros((0, len(shift)))
        self.predictions: list[npt.NDArray[Any]] = [empty]
        self.targets: list[npt.NDArray[Any]] = [empty]

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Keep predicted and true numbers in their original units."""
        self.predictions.append(self._original(logits))
        self.targets.append(self._original(targets.reshape(logits.shape)))

    def _original(self, values: Tensor) -> npt.NDArray[np.float64]:
        learned: npt.NDArray[np.float64] = values.double().cpu().numpy()
        return learned * self.scale + self.shift

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


class NextTokenMeter:
    """How many of the predicted tokens were right."""

    def __init__(self) -> None:
        self.counts = np.zeros(2, dtype=np.int64)
        """Predicted tokens, and those that were right."""

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count logits (rows, longest, vocabulary) against the tokens that come next (rows, longest)."""
        following = targets[:, 1:]
        answers = logits[:, :-1]
        hits = (answers.argmax(dim=-1) == following) & answers.isfinite().all(dim=-1)
        self.counts += [int((following != IGNORED).sum()), int(hits.sum())]

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
