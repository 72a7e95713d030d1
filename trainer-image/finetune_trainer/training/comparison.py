"""Trained against averaged weights, by their scores on the same rows. Pure."""

import math
from dataclasses import dataclass, field

from finetune_api.metrics import improves, plain
from finetune_api.status import EpochStatus, Weights

Scores = dict[str, float]
PREFIXES = {Weights.TRAINED: "trained_", Weights.EMA: "ema_"}


@dataclass(frozen=True)
class Evaluation:
    """The scores of one evaluation, by plain name."""

    scores: Scores
    """Of the better weights."""
    weights: Weights | None = None
    """Which ones these are; None without training.ema."""
    compared: Scores = field(default_factory=dict)
    """Loss and best metric of both, as trained_NAME and ema_NAME; empty before the first update of the average."""


def better_of(best_metric: str, trained: Scores, averaged: Scores) -> Evaluation:
    """The better ones of two scored weights: the averaged ones only if their best metric is a number and better."""
    key, both = plain(best_metric), {Weights.TRAINED: trained, Weights.EMA: averaged}
    compared = {
        f"{prefix}{name}": both[weights][name]
        for name in dict.fromkeys(["loss", key])
        for weights, prefix in PREFIXES.items()
    }
    known = trained[key] if math.isfinite(trained[key]) else None
    better = math.isfinite(averaged[key]) and improves(key, averaged[key], known)
    weights = Weights.EMA if better else Weights.TRAINED
    return Evaluation(both[weights], weights, compared)


def own_metrics(evaluation: EpochStatus) -> dict[str, float]:
    """Metrics of the better weights alone."""
    prefixes = tuple(PREFIXES.values())
    return {name: value for name, value in evaluation.metrics.items() if not name.startswith(prefixes)}


def choice_sentence(evaluation: EpochStatus, best_metric: str, updates: int) -> str:
    """Which weights of a step are published, with the best metric of both, after that many updates of the average."""
    metric = plain(best_metric)
    trained, averaged = (_value(evaluation.metrics.get(f"{prefix}{metric}")) for prefix in PREFIXES.values())
    if updates == 0:
        return f"the trained weights of step {evaluation.step} are published: the average (training.ema) had no update"
    if evaluation.weights is Weights.EMA:
        return (
            f"the averaged weights (EMA) of step {evaluation.step} are published: eval_{metric} {averaged};"
            f" of the trained ones it is {trained}"
        )
    return (
        f"the trained weights of step {evaluation.step} are published: eval_{metric} {trained}; of the averaged ones"
        f" (EMA) it is {averaged}, which is not better"
    )


def _value(value: float | None) -> str:
    return "undefined" if value is None else f"{value:g}"
