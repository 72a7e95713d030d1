"""Measures rewards: two numbers a row are kept, of single answers three."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finetune_api.objective import PreferenceSpec
from finetune_trainer.objectives.base import Answers as Kept
from finetune_trainer.objectives.base import Meter, Parts
from finetune_trainer.objectives.preference.losses import Answers, rewards

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float64]


class RewardMeter(Meter):
    """Rewards of all rows (rows, numbers)."""

    numbers = 2

    def __init__(self, spec: PreferenceSpec) -> None:
        self.spec = spec
        self.rows: list[npt.NDArray[Any]] = [np.zeros((0, self.numbers))]

    def reduce(self, outputs: Tensor, targets: Tensor) -> Kept:
        """Both rewards of every row."""
        del targets
        return self._kept(*rewards(self.spec, Answers.of(outputs.double())))

    def _kept(self, *numbers: Tensor) -> Kept:
        import torch

        values = torch.stack(numbers, dim=1).cpu().numpy()
        return Kept(values, np.ones(len(values), dtype=np.int64))

    def count(self, values: Floats, times: npt.NDArray[np.int64] | None = None) -> None:
        """Keep rows (rows, numbers)."""
        self.rows.append(values if times is None else np.repeat(values, times, axis=0))

    def parts(self) -> Parts:
        """All rows."""
        return (np.concatenate(self.rows),)

    def add(self, parts: Parts) -> None:
        """Append another meter's rows."""
        self.rows.append(parts[0])

    def scores(self, loss: float) -> dict[str, float]:
        """The metrics of finetune_api.metrics.PREFERENCE: accuracy is the share of pairs with a positive margin."""
        del loss
        chosen, rejected = self.parts()[0].T
        return _scores(chosen, rejected, _above(chosen, rejected))


class SingleMeter(RewardMeter):
    """For single answers with a label: the reward of each, that of an answer to another prompt, and the label."""

    numbers = 3
    has_loss = True

    def reduce(self, outputs: Tensor, targets: Tensor) -> Kept:
        """Three numbers of every row."""
        return self._kept(*rewards(self.spec, Answers.of(outputs.double())), targets.double())

    def scores(self, loss: float) -> dict[str, float]:
        """With the loss against the baseline of all rows: that of a batch would depend on its size.

        An answer is right if its reward is above the baseline and its label true, or below it and its label false.
        """
        del loss
        reward, other, desirable = self.parts()[0].T
        good = desirable == 1
        baseline = max(0.0, float(other.mean())) if len(other) else math.nan
        sign = np.where(good, 1.0, -1.0)
        losses = 1 - 1 / (1 + np.exp(-sign * (reward - baseline)))
        found = _scores(reward[good], reward[~good], _above(sign * reward, sign * baseline))
        return found | {"loss": float(losses.mean()) if len(losses) else math.nan}


def _above(rewards: Floats, others: Floats) -> float:
    """The share of rewards above others. Equal ones count half, as a guess would be right: before training all are."""
    if not len(rewards):
        return math.nan
    return float(np.where(rewards == others, 0.5, rewards > others).mean())


def _scores(chosen: Floats, rejected: Floats, accuracy: float) -> dict[str, float]:
    means = [float(each.mean()) if len(each) else math.nan for each in (chosen, rejected)]
    return {
        "accuracy": accuracy,
        "rewards_chosen": means[0],
        "rewards_rejected": means[1],
        "rewards_margin": means[0] - means[1],
    }
