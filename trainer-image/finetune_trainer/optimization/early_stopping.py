"""Early stopping: when training ends because the metric stopped improving. A value and a pure function."""

import math
from dataclasses import dataclass, replace

from finetune_api.metrics import improves
from finetune_api.training import EarlyStoppingSpec


@dataclass(frozen=True)
class Patience:
    """Number of evaluations without improvement."""

    best: float | None = None
    bad_evaluations: int = 0

    def after(self, spec: EarlyStoppingSpec, value: float | None) -> "Patience":
        """The state after an evaluation; a missing, NaN or infinite value is no improvement."""
        usable = value is not None and math.isfinite(value)
        if value is not None and usable and improves(spec.metric or "loss", value, self.best, spec.min_delta):
            return Patience(best=value)
        return replace(self, bad_evaluations=self.bad_evaluations + 1)

    def exhausted(self, spec: EarlyStoppingSpec | None) -> bool:
        """Whether training stops now."""
        return spec is not None and self.bad_evaluations >= spec.patience
