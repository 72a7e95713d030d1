"""One label for every word: cross-entropy over the first token of each word (Devlin et al. 2019).

A word whose label is -100 is ignored, as in transformers.
Class weights are counted on the training labels before texts are cut to dataset.preprocessing.maxLength.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import numpy.typing as npt

from finetune_api.objective import ClassWeights, TokenClassificationSpec
from finetune_trainer.objectives.base import Label, Loss, Objective
from finetune_trainer.objectives.labels import (
    IGNORED_LABEL,
    balanced_weights,
    found_labels,
    ids_of,
    words_labels,
)
from finetune_trainer.objectives.losses import summed_cross_entropy
from finetune_trainer.objectives.meters import ConfusionMeter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenClassification(Objective[TokenClassificationSpec]):
    """Divided by its weight it equals torch's `CrossEntropyLoss(weight, label_smoothing)` over all labelled tokens."""

    labels: list[str]
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    per_token: ClassVar[bool] = True
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"

    @classmethod
    def read_label(
        cls, options: TokenClassificationSpec, value: object, labels: list[str] | None
    ) -> tuple[str, ...]:
        """The labels of a text's words."""
        return words_labels(value, labels)

    @classmethod
    def found_labels(
        cls, options: TokenClassificationSpec, values: Sequence[Label], source: str
    ) -> list[str]:
        """As the spec fixes them, else those of the training rows."""
        return found_labels(options.labels, _words(values), source)

    @classmethod
    def build(
        cls, options: TokenClassificationSpec, labels: list[str] | None, values: Sequence[Label]
    ) -> TokenClassification:
        """With balanced weights counted on the training labels, where the spec asks for them."""
        assert labels is not None
        if options.class_weights is ClassWeights.NONE:
            return cls(labels, options.label_smoothing)
        counts = np.bincount(ids_of(_words(values), labels), minlength=len(labels))
        return cls(labels, options.label_smoothing, balanced_weights(counts))

    @property
    def outputs(self) -> int:
        """One for each label."""
        return len(self.labels)

    def encode(self, values: Sequence[Label]) -> list[npt.NDArray[np.int64]]:
        """Ids of the labels of every row's words."""
        return [ids_of(value, self.labels) for value in cast("Sequence[tuple[str, ...]]", values)]

    def loss(self, logits: Tensor, targets: Tensor) -> Loss:
        """Weighted cross-entropy summed, and the summed class weights of the targets."""
        return summed_cross_entropy(
            logits.flatten(0, 1), targets.flatten(), self.class_weights, self.label_smoothing
        )

    def meter(self) -> ConfusionMeter:
        """Counts of (true, predicted) pairs of words."""
        return ConfusionMeter(self.outputs)


def _words(values: Sequence[Label]) -> Iterator[str]:
    """The labels of all words that are not ignored."""
    of_all = chain.from_iterable(cast("Sequence[tuple[str, ...]]", values))
    return (label for label in of_all if label != IGNORED_LABEL)
