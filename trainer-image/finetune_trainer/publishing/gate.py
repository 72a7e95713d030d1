"""Whether a model passes `spec.gate`, and so may be published."""

from finetune_api.gate import GateSpec
from finetune_api.metrics import Direction, direction, plain
from finetune_api.run import FaultPlace
from finetune_api.status import ImprovementStatus, Metrics
from finetune_trainer.errors import GateNotPassedError


def check_gate(
    gate: GateSpec, metrics: Metrics, improvement: ImprovementStatus | None, kept: str = ""
) -> None:
    """Raise GateNotPassedError for a model that must not be published; `kept` says where its weights are."""
    if reason := why_not_passed(gate, metrics, improvement):
        message = f"spec.gate: {reason}; the model is not published"
        raise GateNotPassedError("; ".join([message, *([kept] if kept else [])]), FaultPlace(field="gate"))


def why_not_passed(gate: GateSpec, metrics: Metrics, improvement: ImprovementStatus | None) -> str | None:
    """What of the gate a model does not reach; None if it passes. A metric that is not defined does not pass."""
    name = f"eval_{plain(gate.metric)}"
    value = metrics.get(name)
    if value is None:
        return f"{name} is not defined on the validation rows"
    if gate.min is not None:
        return None if value >= gate.min else f"{name} is {value:.4g}, below min {gate.min:g}"
    if gate.max is not None:
        return None if value <= gate.max else f"{name} is {value:.4g}, above max {gate.max:g}"
    assert gate.better_than_baseline_by is not None
    if improvement is None:
        return f"{name} of the baseline is not defined"
    gain = improvement.delta if direction(gate.metric) is Direction.MAXIMIZE else -improvement.delta
    wanted = gate.better_than_baseline_by
    if gain >= wanted and gain > 0:
        return None
    return (
        f"{name} is {improvement.to:.4g}, and {improvement.from_:.4g} of the baseline: not better"
        f"{f' by {wanted:g}' if wanted else ''}"
    )
