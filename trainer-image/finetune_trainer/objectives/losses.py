"""Losses that several objectives share. Torch is imported when one is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune_trainer.objectives.base import IGNORED, Loss

if TYPE_CHECKING:
    from torch import Tensor


def summed_cross_entropy(
    logits: Tensor, targets: Tensor, weights: tuple[float, ...] | None = None, smoothing: float = 0.0
) -> Loss:
    """Cross-entropy of logits (n, classes) against ids (n,), summed over those that are not IGNORED.

    The weight is that sum of class weights which torch's `CrossEntropyLoss(weight, label_smoothing)` divides by.
    """
    from torch.nn.functional import cross_entropy

    given = None if weights is None else logits.new_tensor(weights)
    total = cross_entropy(
        logits, targets, weight=given, label_smoothing=smoothing, ignore_index=IGNORED, reduction="sum"
    )
    counted = targets != IGNORED
    if given is None:
        return Loss(total, counted.sum().to(logits.dtype))
    return Loss(total, (given[targets.clamp(min=0)] * counted).sum())
