"""Evaluation metrics: which objective has which, and whether higher is better.

One table for the schema, the trainer, the status and the columns. Names may have the prefix `eval_`.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from pydantic import StringConstraints


class Direction(StrEnum):
    """Whether lower or higher values of a metric are better."""

    MINIMIZE = "Minimize"
    MAXIMIZE = "Maximize"


COMMON = {"loss": Direction.MINIMIZE}
CLASSIFICATION = {
    "accuracy": Direction.MAXIMIZE,
    "f1": Direction.MAXIMIZE,
    "f1_micro": Direction.MAXIMIZE,
    "f1_macro": Direction.MAXIMIZE,
    "precision": Direction.MAXIMIZE,
    "recall": Direction.MAXIMIZE,
    "mcc": Direction.MAXIMIZE,
}
REGRESSION = {
    "mse": Direction.MINIMIZE,
    "rmse": Direction.MINIMIZE,
    "mae": Direction.MINIMIZE,
    "r2": Direction.MAXIMIZE,
    "pearson": Direction.MAXIMIZE,
    "spearman": Direction.MAXIMIZE,
}
LANGUAGE = {
    "perplexity": Direction.MINIMIZE,
    "accuracy": Direction.MAXIMIZE,
}
PREFERENCE = {
    "accuracy": Direction.MAXIMIZE,
    "rewards_chosen": Direction.MAXIMIZE,
    "rewards_rejected": Direction.MINIMIZE,
    "rewards_margin": Direction.MAXIMIZE,
}
OBJECTIVES = {
    "classification": CLASSIFICATION,
    "regression": REGRESSION,
    "token_classification": CLASSIFICATION,
    "causal_lm": LANGUAGE,
    "preference": PREFERENCE,
}
"""Metrics of each objective in addition to the loss, by the member of ObjectiveSpec."""
DEFAULTS = {
    "classification": ["accuracy", "f1"],
    "regression": ["rmse", "pearson"],
    "token_classification": ["accuracy", "f1_macro"],
    "causal_lm": ["perplexity"],
    "preference": ["accuracy", "rewards_margin"],
}
"""Metrics that are reported if the spec names none."""
ALL = COMMON | CLASSIFICATION | REGRESSION | LANGUAGE | PREFERENCE
SHARES = ("accuracy", "f1", "f1_micro", "f1_macro", "precision", "recall")
"""Metrics from 0 to 1."""
AT_MOST_ONE = (*SHARES, "mcc", "r2", "pearson", "spearman")
"""Metrics that are never above 1."""

METRIC_PATTERN = f"^(eval_)?({'|'.join(ALL)})$"
MetricName = Annotated[str, StringConstraints(pattern=METRIC_PATTERN, max_length=32)]


def plain(name: str) -> str:
    """The name without `eval_`: the key in status and reports."""
    return name.removeprefix("eval_")


def written(names: Iterable[str]) -> str:
    """A CEL list of metrics as they may be written, with `eval_` or without."""
    return f"[{', '.join(repr(prefix + name) for name in names for prefix in ('', 'eval_'))}]"


def direction(name: str) -> Direction:
    """Whether lower or higher values of the metric are better."""
    return ALL[plain(name)]


def improves(name: str, value: float, best: float | None, min_delta: float = 0.0) -> bool:
    """Whether `value` is better than `best` by more than `min_delta`."""
    if best is None:
        return True
    gain = value - best if direction(name) is Direction.MAXIMIZE else best - value
    return gain > min_delta
