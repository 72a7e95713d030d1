"""When to stop because the metric no longer improves: a value and a pure function on it."""

import math
from dataclasses import dataclass, replace

from finetune_api.metrics import improves
from finetune_api.training import EarlyStoppingSpec


@dataclass(frozen=True)
class Patience:
    """How long the metric has not improved."""

    best: float | None = None
    bad_evaluations: int = 0

    def after(self, spec: EarlyStoppingSpec, value: float | None) -> "Patience":
        """After an evaluation; a value that is absent or not finite is no improvement."""
        usable = value is not None and math.isfinite(value)
        if value is not None and usable and improves(spec.metric or "loss", value, self.best, spec.min_delta):
            return Patience(best=value)
        return replace(self, bad_evaluations=self.bad_evaluations + 1)

    def exhausted(self, spec: EarlyStoppingSpec | None) -> bool:
        """Whether training stops now."""
        return spec is not None and self.bad_evaluations >= spec.patience
