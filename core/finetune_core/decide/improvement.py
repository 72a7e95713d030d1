"""The condition Improved: whether training gained anything over the baseline. Pure."""

from datetime import datetime

from finetune_api.metrics import Direction, direction
from finetune_api.status import (
    BaselineKind,
    Condition,
    ConditionType,
    FineTuneJobStatus,
    ImprovementStatus,
    Reason,
)

_WHAT = {
    BaselineKind.UNTRAINED_MODEL: "the model before training",
    BaselineKind.CONSTANT_PREDICTION: "the best constant prediction",
}


def improved(status: FineTuneJobStatus, generation: int, now: datetime) -> list[Condition]:
    """The condition Improved, once the trained model was compared with a baseline: True, False, or Unknown if the
    confidence interval contains both."""
    if status.improvement is None or status.baseline is None:
        return []
    answer, reason = _answer(status.improvement)
    before = next((each for each in status.conditions if each.type is ConditionType.IMPROVED), None)
    unchanged = before is not None and before.status == answer
    condition = Condition(
        type=ConditionType.IMPROVED,
        status=answer,
        reason=reason.value,
        message=improvement_sentence(status.improvement, status.baseline.kind),
        last_transition_time=before.last_transition_time if before and unchanged else now,
        observed_generation=generation,
    )
    return [condition]


def _answer(found: ImprovementStatus) -> tuple[str, Reason]:
    sign = 1 if direction(found.metric) is Direction.MAXIMIZE else -1
    edges = [sign * edge for edge in found.ci95 or []]
    if edges and min(edges) > 0:
        return "True", Reason.IMPROVED
    if sign * found.delta <= 0:
        return "False", Reason.NOT_IMPROVED
    return "Unknown", Reason.WITHIN_UNCERTAINTY


def improvement_sentence(found: ImprovementStatus, kind: BaselineKind) -> str:
    """The comparison, as part of a sentence."""
    interval = (
        f"95 % interval of the change {found.ci95[0]:+.3g} to {found.ci95[1]:+.3g}"
        if found.ci95
        else "too few rows for a confidence interval"
    )
    return f"{found.metric} {found.to:.4g}, against {found.from_:.4g} of {_WHAT[kind]} ({interval})"
