"""One number for every text, or several: squared or Huber error.

With `normalize` the targets are standardised by mean and deviation of the training rows: the losses, of training and of
evaluation, are then in units of that deviation. Metrics are always in original units, and so is the recorded model: its
last layer takes up mean and deviation (W' = s W, b' = s b + m).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finetune_api.objective import RegressionLoss, RegressionSpec
from finetune_api.run import FaultPlace
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.objectives.base import Label, Loss, Objective
from finetune_trainer.objectives.meters import PairMeter

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = float(np.finfo(np.float32).max)
ROUNDING = 1e-9
"""Share of the mean up to which a deviation is none."""


@dataclass(frozen=True)
class Regression(Objective[RegressionSpec]):
    """Divided by its weight, rows x targets, it equals torch's `MSELoss` or `HuberLoss` (delta 1)."""

    targets: int = 1
    kind: RegressionLoss = RegressionLoss.SQUARED
    standard: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and deviation of every target, where they are normalised."""
    labels: None = None

    @property
    def problem_type(self) -> str:
        """As in the config.json of transformers."""
        return "regression"

    @property
    def output_names(self) -> list[str]:
        """value, or value_0, value_1, …"""
        return ["value"] if self.targets == 1 else [f"value_{i}" for i in range(self.targets)]

    @classmethod
    def read_label(
        cls, options: RegressionSpec, value: object, labels: list[str] | None
    ) -> float | tuple[float, ...]:
        """A finite number, written as a number or as its text (CSV), or a list of as many as there are targets."""
        if options.targets == 1:
            return _number(value)
        if not isinstance(value, list | tuple):
            raise ValueError(f"is not a list of {options.targets} numbers but {str(value)[:40]!r}")
        if len(value) != options.targets:
            raise ValueError(f"has {len(value)} numbers; objective.regression.targets is {options.targets}")
        return tuple(_number(each) for each in value)

    @classmethod
    def found_labels(cls, options: RegressionSpec, values: Sequence[Label], source: str) -> list[str] | None:
        """None: numbers have no labels."""
        return None

    @classmethod
    def build(cls, options: RegressionSpec, labels: list[str] | None, values: Sequence[Label]) -> Regression:
        """With mean and deviation of the training values, where the spec asks for them."""
        if not options.normalize:
            return cls(options.targets, options.loss)
        numbers = np.asarray(values, dtype=np.float64).reshape(len(values), options.targets)
        mean, deviation = numbers.mean(axis=0), numbers.std(axis=0)
        deviation[deviation <= ROUNDING * abs(mean)] = 1.0
        standard = tuple(mean.tolist()), tuple(deviation.tolist())
        return cls(options.targets, options.loss, standard)

    @property
    def outputs(self) -> int:
        """One for each target."""
        return self.targets

    def encode(self, values: Sequence[Label]) -> npt.NDArray[np.float32]:
        """The numbers as they are learned: (rows,) for one target, (rows, targets) for several; float32."""
        numbers = np.asarray(values, dtype=np.float64).reshape(len(values), self.targets)
        learned = ((numbers - self._shift) / self._scale).astype(np.float32)
        return learned[:, 0] if self.targets == 1 else learned

    def check(self, model: Any) -> None:
        """Normalised targets need a last layer with a bias, which takes up their mean."""
        if self.standard is not None and _last_layer(model, self.outputs).bias is None:
            raise ConfigurationError(
                f"objective.regression.normalize: the last layer of {type(model).__name__} has no bias to hold the"
                " targets' mean; remove normalize, or set model.head: {}, a head that has one",
                FaultPlace(field="objective.regression.normalize"),
            )

    def begin(self, model: Any) -> None:
        """Let a last layer that predicts original units predict normalised ones."""
        layer = _last_layer(model, self.outputs)
        if self.standard is None or layer.bias is None:  # without a bias `check` refuses the model
            return
        import torch

        with torch.no_grad():
            shift, scale = (layer.weight.new_tensor(values) for values in self.standard)
            layer.weight.div_(scale[:, None])
            layer.bias.sub_(shift).div_(scale)

    def prepare(self, model: Any) -> None:
        """Compute the last layer in float32: in bfloat16, numbers near 2,000 move in steps of 8."""
        from finetune_trainer.layers.find import replace_module
        from finetune_trainer.layers.float32 import Float32Linear

        layer = _last_layer(model, self.outputs)
        replace_module(model, layer, Float32Linear.like(layer))

    def loss(self, logits: Tensor, targets: Tensor) -> Loss:
        """Errors summed, and the number of them."""
        from torch.nn.functional import huber_loss, mse_loss

        error = huber_loss if self.kind is RegressionLoss.HUBER else mse_loss
        total = error(logits.reshape(targets.shape), targets.to(logits.dtype), reduction="sum")
        return Loss(total, logits.new_tensor(float(targets.numel())))

    def meter(self) -> PairMeter:
        """Predicted and true numbers."""
        return PairMeter(self._shift, self._scale)

    def finish(self, model: Any) -> None:
        """Fold mean and deviation into the last layer, so that it predicts original units."""
        if self.standard is None:
            return
        import torch

        layer = _last_layer(model, self.outputs)
        with torch.no_grad():
            shift, scale = (layer.weight.new_tensor(values) for values in self.standard)
            layer.weight.mul_(scale[:, None])
            layer.bias.mul_(scale).add_(shift)

    @property
    def _shift(self) -> npt.NDArray[np.float64]:
        return np.asarray(self.standard[0]) if self.standard else np.zeros(self.targets)

    @property
    def _scale(self) -> npt.NDArray[np.float64]:
        return np.asarray(self.standard[1]) if self.standard else np.ones(self.targets)


def _last_layer(model: Any, outputs: int) -> Any:
    """The linear layer that gives the outputs: the last one of that width which is trained."""
    from torch.nn import Linear

    layers = [module for module in model.modules() if isinstance(module, Linear)]
    return [layer for layer in layers if layer.out_features == outputs and layer.weight.requires_grad][-1]


def _number(value: object) -> float:
    try:
        known = isinstance(value, int | float | str | Decimal) and not isinstance(value, bool)
        number = float(value) if known else None  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        number = None
    if number is None or not abs(number) <= LARGEST:
        raise ValueError(f"is not a finite number but {str(value)[:40]!r}")
    return number
