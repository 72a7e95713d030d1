"""The confidence interval of a gain: bootstrap over the rows (Efron 1979), percentiles of paired resamples."""

from collections.abc import Callable

import numpy as np

from finetune_trainer.objectives.base import Meter
from finetune_trainer.training.answers import RowAnswers

RESAMPLES, SEED = 1000, 0
TAILS = (2.5, 97.5)
LEAST_ROWS = 2
"""Of one row all resamples are the same."""
LEAST_DEFINED = 0.9
"""Share of the resamples that a metric has to be defined on, for an interval."""


def gain_interval(
    metric: str,
    sign: int,
    new_meter: Callable[[], Meter],
    combination: RowAnswers,
    member: RowAnswers,
    check: Callable[[], None] = lambda: None,
) -> list[float] | None:
    """The 95 % interval of the combination's gain over a member, both on the same rows of each resample.

    `sign` is -1 for metrics of which lower is better. None where too few resamples define the metric, and for one row.
    """
    if len(combination.entries) < LEAST_ROWS:
        return None
    one, other = (each.value(metric, new_meter) for each in (combination, member))
    random, rows, gains = np.random.default_rng(SEED), len(combination.entries), np.empty(RESAMPLES)
    for resample in range(RESAMPLES):
        check()
        times = np.bincount(random.integers(rows, size=rows), minlength=rows)
        gains[resample] = sign * (one(times) - other(times))
    defined = gains[np.isfinite(gains)]
    if len(defined) < LEAST_DEFINED * RESAMPLES:
        return None
    return [float(f"{edge:.6g}") + 0.0 for edge in np.percentile(defined, TAILS)]
