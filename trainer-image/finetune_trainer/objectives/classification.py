"""One label for every text: cross-entropy with class weights and label smoothing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from finetune_api.objective import ClassificationSpec, ClassWeights
from finetune_api.run import FaultPlace
from finetune_trainer.errors import DataError
from finetune_trainer.objectives.base import Label, Loss, Objective
from finetune_trainer.scores import classification_scores

if TYPE_CHECKING:
    from torch import Tensor

MOST_LABELS = 1000
LONGEST_LABEL = 128


@dataclass(frozen=True)
class Classification(Objective[ClassificationSpec]):
    """Cross-entropy; equals torch's `CrossEntropyLoss(weight, label_smoothing)` once divided by the weight."""

    labels: list[str]
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    problem_type: ClassVar[str] = "single_label_classification"

    @classmethod
    def fixed_labels(cls, options: ClassificationSpec) -> list[str] | None:
        """`objective.classification.labels`."""
        return options.labels

    @classmethod
    def read_label(cls, value: object, labels: list[str] | None) -> str:
        """A label's string form: true, 3 and "3" are the labels true, 3 and 3."""
        text = label_text(value)
        if labels is not None and text not in labels:
            raise ValueError(f"has the label {text!r}, which is not one of {_listed(labels)}")
        return text

    @classmethod
    def found_labels(cls, options: ClassificationSpec, values: Sequence[Label], source: str) -> list[str]:
        """As the spec fixes them, else those of the training rows, sorted (by number where all are whole numbers)."""
        found = options.labels or sort_labels({str(value) for value in values})
        place = FaultPlace(field="dataset.columns.label", file=source)
        if len(found) < 2:
            raise DataError(f"{source} has one label only, {found[0]!r}; classification needs two", place)
        if len(found) > MOST_LABELS:
            hint = "is dataset.columns.label the right column, or is it a number to predict (objective.regression)?"
            raise DataError(
                f"{source} has {len(found)} different labels, more than {MOST_LABELS}; {hint}", place
            )
        return found

    @classmethod
    def build(
        cls, options: ClassificationSpec, labels: list[str] | None, values: Sequence[Label]
    ) -> Classification:
        """With balanced weights counted on the training values, where the spec asks for them."""
        objective = cls(labels or [], options.label_smoothing)
        if options.class_weights is ClassWeights.NONE:
            return objective
        counts = np.bincount(objective.encode(values), minlength=objective.outputs)
        return cls(objective.labels, options.label_smoothing, balanced_weights(counts))

    @property
    def outputs(self) -> int:
        """One for each label."""
        return len(self.labels)

    def encode(self, values: Sequence[Label]) -> npt.NDArray[Any]:
        """Ids of the labels (rows,), int64."""
        ids = {label: number for number, label in enumerate(self.labels)}
        return np.fromiter((ids[str(value)] for value in values), dtype=np.int64, count=len(values))

    def loss(self, logits: Tensor, targets: Tensor) -> Loss:
        """Weighted cross-entropy summed, and the summed class weights of the targets."""
        from torch.nn.functional import cross_entropy

        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        total = cross_entropy(
            logits, targets, weight=weights, label_smoothing=self.label_smoothing, reduction="sum"
        )
        count = logits.new_tensor(float(len(targets)))
        return Loss(total, count if weights is None else weights[targets].sum())

    def meter(self) -> ConfusionMeter:
        """Counts of (true, predicted) pairs."""
        return ConfusionMeter(self.outputs)


class ConfusionMeter:
    """A confusion matrix: all that the metrics need, whatever the number of rows."""

    def __init__(self, classes: int) -> None:
        self.matrix = np.zeros((classes, classes), dtype=np.int64)

    def update(self, logits: npt.NDArray[np.float64], targets: npt.NDArray[Any]) -> None:
        """Count the predicted label of every row."""
        np.add.at(self.matrix, (targets, logits.argmax(axis=1)), 1)

    def scores(self) -> dict[str, float]:
        """The metrics of finetune_api.metrics.CLASSIFICATION."""
        return classification_scores(self.matrix)


def label_text(value: object) -> str:
    """The string form of a label; ValueError for what is none."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, bool | int):
        text = json.dumps(value)
    elif isinstance(value, float) and math.isfinite(value) and value.is_integer():
        text = str(int(value))
    elif isinstance(value, float):
        raise ValueError(f"is the number {value}, not a label; for numbers use objective.regression")
    else:
        raise ValueError(f"is not a label but {'null' if value is None else type(value).__name__}")
    if not text or len(text) > LONGEST_LABEL:
        raise ValueError(f"has a label of {len(text)} characters; 1 to {LONGEST_LABEL} are allowed")
    return text


def sort_labels(labels: set[str]) -> list[str]:
    """Sorted by number where all labels are whole numbers, else as texts."""
    try:
        return sorted(labels, key=lambda label: (int(label), label))
    except ValueError:
        return sorted(labels)


def balanced_weights(counts: npt.NDArray[Any]) -> tuple[float, ...]:
    """rows / (classes x rows of the class), as scikit-learn's `compute_class_weight('balanced')`.

    A class without rows counts as if it had one.
    """
    present = np.maximum(counts, 1)
    return tuple(float(weight) for weight in counts.sum() / (len(counts) * present))


def _listed(labels: list[str]) -> str:
    return ", ".join(labels[:10]) + (f", … ({len(labels)} labels)" if len(labels) > 10 else "")
