"""`spec.gate`: what a trained model must reach to be published."""

from typing import Annotated

from pydantic import Field

from finetune_api.base import ApiModel, Rule
from finetune_api.metrics import ALL, AT_MOST_ONE, SHARES, Direction, MetricName, direction, plain, written

_LIMIT = 1_000_000_000
Threshold = Annotated[float, Field(ge=-_LIMIT, le=_LIMIT)]


def _fits(wanted: Direction, field: str) -> Rule:
    """`min` is for metrics of which higher is better, `max` for the others."""
    fitting = [name for name in ALL if direction(name) is wanted]
    better, other = ("lower", "max") if wanted is Direction.MAXIMIZE else ("higher", "min")
    return Rule(
        f"!has(self.{field}) || self.metric in {written(fitting)}",
        f"{field} does not fit a metric where {better} is better; write {other} instead",
        lambda gate: getattr(gate, field) is None or direction(gate.metric) is wanted,
        f".{field}",
    )


class GateSpec(ApiModel):
    """What the trained model must reach on the validation rows. A job whose model does not reach it fails with reason GateNotPassed, and publishes nothing."""

    rules = (
        Rule(
            "[has(self.min), has(self.max), has(self.betterThanBaselineBy)].filter(given, given).size() == 1",
            "set exactly one of min (metrics where higher is better), max (where lower is better) and betterThanBaselineBy",
            lambda gate: sum(v is not None for v in (gate.min, gate.max, gate.better_than_baseline_by)) == 1,
        ),
        _fits(Direction.MAXIMIZE, "min"),
        _fits(Direction.MINIMIZE, "max"),
        Rule(
            f"!has(self.min) || self.min <= 1.0 || !(self.metric in {written(AT_MOST_ONE)})",
            "min is above 1, which this metric never is; for 80 % write 0.8",
            lambda gate: gate.min is None or gate.min <= 1 or plain(gate.metric) not in AT_MOST_ONE,
            ".min",
        ),
        Rule(
            "!has(self.betterThanBaselineBy) || self.betterThanBaselineBy < 1.0"
            f" || !(self.metric in {written(SHARES)})",
            "betterThanBaselineBy is 1 or more, which a metric from 0 to 1 cannot gain; for 2 percentage points write 0.02",
            lambda gate: (
                gate.better_than_baseline_by is None
                or gate.better_than_baseline_by < 1
                or plain(gate.metric) not in SHARES
            ),
            ".betterThanBaselineBy",
        ),
    )
    metric: MetricName
    """Metric on the validation rows, for example accuracy or eval_loss."""
    min: Threshold | None = None
    """Smallest value that passes, for a metric where higher is better. For example 0.8."""
    max: Threshold | None = None
    """Largest value that passes, for a metric where lower is better. For example 0.5."""
    better_than_baseline_by: Annotated[float, Field(ge=0, le=_LIMIT)] | None = None
    """How much better than the baseline (training.evaluation.baseline, which this turns on) the model must be, in units of the metric. For example 0.02. With 0 any gain passes; an equal value never does."""
