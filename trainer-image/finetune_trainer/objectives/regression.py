"""One number for every text: squared error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from finetune_api.objective import RegressionSpec
from finetune_trainer.objectives.base import Label, Loss, Objective
from finetune_trainer.scores import regression_scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Regression(Objective[RegressionSpec]):
    """Squared error; equals torch's `MSELoss` once divided by the weight."""

    labels: list[str] | None = None
    problem_type: ClassVar[str] = "regression"

    @classmethod
    def fixed_labels(cls, options: RegressionSpec) -> list[str] | None:
        """None: numbers have no labels."""
        return None

    @classmethod
    def read_label(cls, value: object, labels: list[str] | None) -> float:
        """A finite number, written as a number or as its text (CSV)."""
        try:
            number = (
                float(value)
                if isinstance(value, int | float | str) and not isinstance(value, bool)
                else math.nan
            )
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) or abs(number) > float(np.finfo(np.float32).max):
            raise ValueError(f"is not a finite number but {str(value)[:40]!r}")
        return number

    @classmethod
    def found_labels(cls, options: RegressionSpec, values: Sequence[Label], source: str) -> list[str] | None:
        """None: numbers have no labels."""
        return None

    @classmethod
    def build(cls, options: RegressionSpec, labels: list[str] | None, values: Sequence[Label]) -> Regression:
        """Nothing depends on the data."""
        return cls()

    @property
    def outputs(self) -> int:
        """One."""
        return 1

    def encode(self, values: Sequence[Label]) -> npt.NDArray[Any]:
        """The numbers (rows,), float32."""
        return np.asarray(values, dtype=np.float32)

    def loss(self, logits: Tensor, targets: Tensor) -> Loss:
        """Squared errors summed, and the number of rows."""
        from torch.nn.functional import mse_loss

        return Loss(
            mse_loss(logits.squeeze(-1), targets, reduction="sum"), logits.new_tensor(float(len(targets)))
        )

    def meter(self) -> PairMeter:
        """Predicted and true numbers."""
        return PairMeter()


class PairMeter:
    """Two numbers a row: rank correlation needs them all."""

    def __init__(self) -> None:
        self.predictions: list[npt.NDArray[np.float64]] = []
        self.targets: list[npt.NDArray[Any]] = []

    def update(self, logits: npt.NDArray[np.float64], targets: npt.NDArray[Any]) -> None:
        """Keep the predicted number of every row."""
        self.predictions.append(logits[:, 0].astype(np.float64))
        self.targets.append(targets.astype(np.float64))

    def scores(self) -> dict[str, float]:
        """The metrics of finetune_api.metrics.REGRESSION."""
        return regression_scores(np.concatenate(self.predictions), np.concatenate(self.targets))
