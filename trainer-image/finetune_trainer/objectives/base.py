"""What every objective gives: reading labels, targets, a loss as a sum with its weight, and a meter for evaluation.

Torch is imported inside `loss` and by type checkers only, so that a mistake in the data is answered without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Options = TypeVar("Options")
Label = str | float | tuple[str, ...] | tuple[float, ...] | None


class Loss(NamedTuple):
    """A loss not yet divided: only the loop divides, by the weight summed over a whole step."""

    loss_sum: Tensor
    weight: Tensor


class Meter(Protocol):
    """Collects predictions of an evaluation in memory that does not grow with the model's outputs."""

    def update(self, logits: npt.NDArray[np.float64], targets: npt.NDArray[Any]) -> None:
        """Add a batch: logits (rows, outputs), targets (rows,)."""

    def scores(self) -> dict[str, float]:
        """Every metric of this objective, by its plain name; one that is not defined here is NaN."""


class Objective(ABC, Generic[Options]):
    """One member of `spec.objective`, ready to train."""

    problem_type: ClassVar[str]
    """As in the config.json of transformers."""
    per_token: ClassVar[bool] = False
    """Targets belong to tokens, not to rows."""
    labelled: ClassVar[bool] = True
    """Whether a label column is read."""
    labels: list[str] | None
    """Labels in the order of their ids; None where there are none."""

    @classmethod
    @abstractmethod
    def fixed_labels(cls, options: Options) -> list[str] | None:
        """The labels that the spec fixes."""

    @classmethod
    @abstractmethod
    def read_label(cls, value: object, labels: list[str] | None) -> Label:
        """A label as written in a file; ValueError says what is wrong with it, as the end of a sentence."""

    @classmethod
    @abstractmethod
    def found_labels(cls, options: Options, values: Sequence[Label], source: str) -> list[str] | None:
        """The labels of this run: fixed by the spec or found in the training rows of `source`."""

    @classmethod
    @abstractmethod
    def build(cls, options: Options, labels: list[str] | None, values: Sequence[Label]) -> Objective[Options]:
        """The objective for these labels and training values."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of outputs of the model's head."""

    @abstractmethod
    def encode(self, values: Sequence[Label]) -> npt.NDArray[Any]:
        """Targets (rows,), as the loss takes them."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Loss:
        """Pure: logits (rows, outputs) and targets (rows,) to a sum and its weight, both scalars."""

    @abstractmethod
    def meter(self) -> Meter:
        """A new meter."""
