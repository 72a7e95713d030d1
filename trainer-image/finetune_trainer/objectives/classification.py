"""One label for every text: cross-entropy. Or any number of labels: binary cross-entropy for each.

`classWeights: Balanced` weighs a single label by the inverse of its frequency. With several labels it weighs the rows
that have a label by (rows without it) / (rows with it), torch's `pos_weight`: both sides of every label count alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from finetune_api.objective import ClassificationSpec, ClassWeights
from finetune_api.run import FaultPlace
from finetune_trainer.errors import DataError
from finetune_trainer.objectives.base import Label, Loss, Meter, Objective
from finetune_trainer.objectives.labels import (
    balanced_weights,
    found_labels,
    ids_of,
    is_ignored,
    known_label,
    label_set,
)
from finetune_trainer.objectives.losses import summed_cross_entropy
from finetune_trainer.objectives.meters import ConfusionMeter, LabelSetMeter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Classification(Objective[ClassificationSpec]):
    """Divided by its weight it equals torch's `CrossEntropyLoss(weight, label_smoothing)`.

    With several labels it equals `BCEWithLogitsLoss(pos_weight)`.
    """

    labels: list[str]
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    multi_label: bool = False

    @property
    def problem_type(self) -> str:
        """As in the config.json of transformers."""
        return "multi_label_classification" if self.multi_label else "single_label_classification"

    @classmethod
    def read_label(
        cls, options: ClassificationSpec, value: object, labels: list[str] | None
    ) -> str | tuple[str, ...]:
        """A label's string form, or with several labels those of a list's elements, each once; it may be empty."""
        if options.multi_label:
            return label_set(value, labels)
        if is_ignored(value):
            raise ValueError("has the label -100, which means 'ignored' in transformers; remove the row")
        return known_label(value, labels)

    @classmethod
    def found_labels(cls, options: ClassificationSpec, values: Sequence[Label], source: str) -> list[str]:
        """As the spec fixes them, else those of the training rows."""
        found = found_labels(options.labels, (label for value in values for label in _set_of(value)), source)
        if options.multi_label and set(found) in ({"0", "1"}, {"true", "false"}):
            _check_multi_hot(values, source)
        return found

    @classmethod
    def build(
        cls, options: ClassificationSpec, labels: list[str] | None, values: Sequence[Label]
    ) -> Classification:
        """With balanced weights counted on the training values, where the spec asks for them."""
        assert labels is not None
        weights = None
        if options.class_weights is ClassWeights.BALANCED:
            ids = ids_of((label for value in values for label in _set_of(value)), labels)
            counts = np.bincount(ids, minlength=len(labels))
            weights = (
                positive_weights(counts, len(values)) if options.multi_label else balanced_weights(counts)
            )
        return cls(labels, options.label_smoothing, weights, options.multi_label)

    @property
    def outputs(self) -> int:
        """One for each label."""
        return len(self.labels)

    def encode(self, values: Sequence[Label]) -> npt.NDArray[Any]:
        """Ids of the labels (rows,), int64; with several labels 0 and 1 (rows, labels), float32."""
        if not self.multi_label:
            return ids_of(cast("Sequence[str]", values), self.labels)
        targets = np.zeros((len(values), len(self.labels)), dtype=np.float32)
        for row, value in zip(targets, values, strict=True):
            row[ids_of(_set_of(value), self.labels)] = 1
        return targets

    def loss(self, logits: Tensor, targets: Tensor) -> Loss:
        """Weighted cross-entropy summed, and the summed class weights; with several labels, rows x labels."""
        if not self.multi_label:
            return summed_cross_entropy(logits, targets, self.class_weights, self.label_smoothing)
        from torch.nn.functional import binary_cross_entropy_with_logits

        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        total = binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), pos_weight=weights, reduction="sum"
        )
        return Loss(total, logits.new_tensor(float(targets.numel())))

    def meter(self) -> Meter:
        """Counts of (true, predicted) pairs."""
        return LabelSetMeter(self.outputs) if self.multi_label else ConfusionMeter(self.outputs)


def positive_weights(counts: npt.NDArray[np.int64], rows: int) -> tuple[float, ...]:
    """(rows without the label) / (rows with it); 1 for a label that all rows or none have."""
    weights = (rows - counts) / np.maximum(counts, 1)
    return tuple(np.where((counts == 0) | (counts == rows), 1.0, weights).tolist())


def _check_multi_hot(values: Sequence[Label], source: str) -> None:
    """Two labels, 0 and 1, that every row has are one number for each of two labels: [0, 1] and [1, 0]."""
    if all(len(_set_of(value)) == 2 for value in values):
        raise DataError(
            f"{source}: every row has both labels, 0 and 1, which looks like one number for every label; write the"
            ' names of the labels that apply, such as ["sport"]',
            FaultPlace(field="dataset.columns.label", file=source),
        )


def _set_of(value: Label) -> tuple[str, ...]:
    return cast("tuple[str, ...]", value) if isinstance(value, tuple) else (str(value),)
