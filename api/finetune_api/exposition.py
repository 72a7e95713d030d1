"""What a metric under /metrics is: its name is part of the contract with dashboards and alerts."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Prometheus' type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Unit(StrEnum):
    """What a metric's number counts."""

    NUMBER = "number"
    RATIO = "ratio, 0 to 1"
    SECONDS = "seconds"
    TIMESTAMP = "Unix time in seconds"
    BYTES = "bytes"
    ONE = "1"


@dataclass(frozen=True)
class Metric:
    """One metric. The name is as exposed: that of a counter ends with `_total`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: Unit = Unit.NUMBER
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, in its unit, without infinity."""


def table(metrics: Iterable[Metric]) -> str:
    """A Markdown table of metrics."""
    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.unit} | {one.help} |"
        for one in metrics
    ]
    return "\n".join(["| Metric | Type | Labels | Unit | Meaning |", "|---|---|---|---|---|", *rows])
