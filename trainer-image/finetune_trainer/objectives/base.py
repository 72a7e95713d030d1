"""What every objective gives: reading labels, targets, a loss as a sum with its weight, and a meter for evaluation.

Torch is imported inside `loss` and by type checkers only, so that a mistake in the data is answered without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Options = TypeVar("Options")
Label = str | float | tuple[str, ...] | tuple[float, ...] | None
"""What is to be predicted for a row; several words or numbers are a tuple, None where the text itself is learned."""
IGNORED = -100
"""Target of a token that nothing is to be predicted for."""
Parts = tuple[npt.NDArray[Any], ...]
Inputs = dict[str, "Tensor"]
Forward = Callable[..., Any]
"""Calls the model with inputs by name, in the number format of the run."""


class Loss(NamedTuple):
    """A loss not yet divided: only the loop divides, by the weight summed over a whole step."""

    loss_sum: Tensor
    weight: Tensor


class Answers(NamedTuple):
    """What a meter keeps of a batch: all that its metrics need, much smaller than the logits."""

    values: npt.NDArray[Any]
    """(entries, …): one entry for every row, or for every word with a label; in the order of the rows."""
    lengths: npt.NDArray[np.int64]
    """Entries of every row (rows,)."""


class Meter(ABC):
    """Collects predictions of an evaluation in memory that does not grow with the model's outputs."""

    has_loss: ClassVar[bool] = False
    """Whether `scores` has the loss too, because it is no sum over the rows."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch as `Objective.loss` takes it; it is reduced on its device, and no outputs are kept."""
        self.count(self.reduce(outputs, targets).values)

    @abstractmethod
    def reduce(self, outputs: Tensor, targets: Tensor) -> Answers:
        """What is kept of a batch."""

    @abstractmethod
    def count(self, values: npt.NDArray[Any], times: npt.NDArray[np.int64] | None = None) -> None:
        """Add `Answers.values`: each entry once, or as often as `times` (entries,) says."""

    @abstractmethod
    def parts(self) -> Parts:
        """What was collected, for the meter of another rank."""

    @abstractmethod
    def add(self, parts: Parts) -> None:
        """Take up what the meter of another rank collected."""

    @abstractmethod
    def scores(self, loss: float) -> dict[str, float]:
        """Every metric of this objective by its plain name, NaN where undefined; `loss` is the evaluation's mean."""


class Objective(ABC, Generic[Options]):
    """One member of `spec.objective`, ready to train."""

    per_token: ClassVar[bool] = False
    """Targets and outputs belong to tokens, not to rows."""
    labelled: ClassVar[bool] = True
    """Whether rows have a label beside their text."""
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    """The class of transformers that makes a model with the head for this."""
    labels: list[str] | None
    """Labels in the order of their ids; None where there are none."""

    @property
    def problem_type(self) -> str | None:
        """As in the config.json of transformers; None where it has none."""
        return None

    @property
    def output_names(self) -> list[str] | None:
        """Names of the head's outputs (`id2label` in config.json); None where they are the vocabulary."""
        return self.labels

    @classmethod
    def fixed_labels(cls, options: Options) -> list[str] | None:
        """The labels that the spec fixes; none where its options have no such field."""
        fixed: list[str] | None = getattr(options, "labels", None)
        return fixed

    @classmethod
    @abstractmethod
    def read_label(cls, options: Options, value: object, labels: list[str] | None) -> Label:
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
    def outputs(self) -> int | None:
        """Number of outputs of the model's head; None where they are the vocabulary."""

    @abstractmethod
    def encode(self, values: Sequence[Label]) -> Any:
        """Targets (rows, …) as the loss takes them; of words, an array (words,) for each row."""

    def check(self, model: Any) -> None:
        """Raise ConfigurationError for a model that cannot learn this."""
        del model

    def begin(self, model: Any) -> None:
        """Undo, in place, what `finish` did to the head of an earlier run that this one continues."""
        del model

    def prepare(self, model: Any) -> None:
        """Change, in place, how the model is computed, where this needs it."""
        del model

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares with what the model predicts before training."""
        return False

    @property
    def looks_ahead(self) -> bool:
        """Whether the loss of a row depends on all rows of a step, by `look_ahead`."""
        return False

    def look_ahead(self, forward: Forward, inputs: Inputs) -> Tensor:
        """What a step needs of its rows before their losses, summed; `inputs["ahead"]` has the mean over the step."""
        raise NotImplementedError

    def compute(self, forward: Forward, inputs: Inputs, targets: Tensor) -> Tensor:
        """What loss and meter need of a model that `forward` calls: by default its logits, in float32."""
        del targets
        logits: Tensor = forward(**inputs).logits
        return logits.float()

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Loss:
        """Pure: outputs (rows, outputs) of `compute` and targets (rows, …) to a sum and its weight, both scalars.

        Per token it is (rows, longest, outputs) and (rows, longest), with IGNORED where nothing is predicted.
        """

    def training_loss(self, forward: Forward, inputs: Inputs, targets: Tensor) -> Loss:
        """The loss of a batch, with gradients."""
        return self.loss(self.compute(forward, inputs, targets), targets)

    @abstractmethod
    def meter(self) -> Meter:
        """A new meter."""

    def finish(self, model: Any) -> None:
        """Change the trained model, in place, to what users of the recorded one expect."""
        del model
