"""The body of a progress POST: our trainer's report, or the status of a Hugging Face Trainer. Pure."""

import math
from collections.abc import Iterator
from typing import Any

from finetune_api.run import RunReport
from finetune_api.status import LARGEST_COUNT, METRIC_NAME_LENGTH, METRICS_KEPT, ProgressStatus
from finetune_core import lenient

_KNOWN_METRICS = {
    "loss",
    "grad_norm",
    "learning_rate",
    "current_step",
    "total_steps",
    "current_epoch",
    "epoch",
}


def parse_report(body: Any) -> RunReport:
    """The report in a POST. Raises ValueError."""
    if not isinstance(body, dict):
        raise ValueError("an object is needed")
    if "runReport" in body:
        report, left_out = lenient.read(RunReport, body["runReport"])
        if report == RunReport() or "version" in left_out:
            raise ValueError(f"runReport is invalid: {', '.join(left_out)}")
        return report
    if not isinstance(body.get("trainerStatus"), dict):
        raise ValueError("trainerStatus is missing")
    return RunReport(progress=_progress(body["trainerStatus"]))


def _progress(status: dict[str, Any]) -> ProgressStatus:
    """A Hugging Face Trainer's status; its metric values are texts."""
    numbers = dict(_numbers(status.get("metrics")))
    rest = {name: value for name, value in numbers.items() if name not in _KNOWN_METRICS}
    percent = _number(status.get("progressPercentage"))
    return ProgressStatus(
        percent=None if percent is None else int(min(100, max(0, percent))),
        eta_seconds=_count(_number(status.get("estimatedRemainingSeconds"))),
        step=_count(numbers.get("current_step")),
        total_steps=_count(numbers.get("total_steps")),
        epoch=numbers.get("current_epoch", numbers.get("epoch")),
        loss=numbers.get("loss"),
        learning_rate=numbers.get("learning_rate"),
        grad_norm=numbers.get("grad_norm"),
        metrics=dict(list(rest.items())[:METRICS_KEPT]) or None,
    )


def _numbers(metrics: Any) -> Iterator[tuple[str, float]]:
    """The metrics that are finite numbers; a script may report texts, for which no column has a place."""
    for metric in metrics if isinstance(metrics, list) else []:
        if isinstance(metric, dict) and isinstance(metric.get("name"), str):
            value = _number(metric.get("value"))
            if value is not None:
                yield metric["name"][:METRIC_NAME_LENGTH], value


def _number(value: Any) -> float | None:
    """A finite number, written as one or as a text."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _count(value: float | None) -> int | None:
    """As a count; None for what is none."""
    return int(value) if value is not None and 0 <= value <= LARGEST_COUNT else None
