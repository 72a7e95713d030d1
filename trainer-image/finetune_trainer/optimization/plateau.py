"""Plateau: when the learning rate is reduced because the metric stopped improving. A value and a pure function."""

import math
from dataclasses import dataclass

from finetune_api.metrics import improves
from finetune_api.training import PlateauSpec


@dataclass(frozen=True)
class Plateau:
    """How long the metric has not improved, and by what the rate is multiplied meanwhile."""

    best: float | None = None
    bad_evaluations: int = 0
    rate_factor: float = 1.0
    """Of the last evaluation: the spec's factor where patience ran out, else 1."""

    def after(self, spec: PlateauSpec, metric: str, value: float) -> "Plateau":
        """After an evaluation, as torch's ReduceLROnPlateau with `threshold_mode="abs"` and no cooldown."""
        if math.isfinite(value) and improves(metric, value, self.best, spec.min_delta):
            return Plateau(best=value)
        bad = self.bad_evaluations + 1
        if bad > spec.patience:
            return Plateau(self.best, 0, spec.factor)
        return Plateau(self.best, bad)
