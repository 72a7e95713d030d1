"""A Prometheus database in which every metric of both sides has series, written by promtool."""

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

from finetune_api.exposition import Kind, Metric, Unit
from finetune_api.status import Phase, TrialState
from finetune_cluster.prometheus import prometheus_program
from finetune_operator.metrics.definitions import definitions as of_the_operator
from finetune_trainer.reporting.metrics import definitions as of_the_trainer

NAMESPACE, JOB = "reviews", "tune-sentiment"
STEP = 15
BEGIN = 1_700_000_010
END = BEGIN + 120 * STEP
VALUES = {
    "namespace": [NAMESPACE],
    "name": [JOB],
    "phase": [phase.value for phase in Phase],
    "kind": ["Search"],
    "state": [*(state.value for state in TrialState), "Deleted"],
    "of": ["combined", "best_member", "mean_member"],
    "code": ["200", "409"],
    "reason": ["DataError"],
    "metric": ["accuracy", "f1"],
    "bound": ["estimate", "low", "high"],
}
"""Values of labels; others have the label's name as value."""
RUNS = [{"name": JOB, "attempt": "1"}, {"name": f"{JOB}-01234567-t001", "attempt": "1"}]
"""What the PodMonitor adds to a trainer's series: the job's own, and a trial's."""


def write(folder: Path) -> None:
    """Write the database into `folder`/data."""
    text = folder / "metrics.txt"
    text.write_text("".join(f"{line}\n" for line in _lines()) + "# EOF\n")
    command = [
        str(prometheus_program("promtool")),
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        str(text),
        str(folder / "data"),
    ]
    subprocess.run(command, check=True, capture_output=True)


def _lines() -> Iterator[str]:
    for metric in of_the_operator():
        yield from _family(metric, [{"instance": "operator"}])
    for metric in of_the_trainer():
        yield from _family(
            metric, [{"namespace": NAMESPACE, "pod": f"{run['name']}-x"} | run for run in RUNS]
        )
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total"):
        kind = Kind.COUNTER if name.endswith("_total") else Kind.GAUGE
        yield from _family(Metric(name, kind, "of the process"), [{"instance": "operator"}])
    alert = {"alertname": "FineTuneJobFailed", "alertstate": "firing", "severity": "warning"}
    yield from _family(Metric("ALERTS", Kind.GAUGE, "of Prometheus"), [alert])
    gpu = Metric("DCGM_FI_DEV_GPU_UTIL", Kind.GAUGE, "utilisation in percent")
    for spelling in ("", "exported_"):
        pod = {
            f"{spelling}namespace": NAMESPACE,
            f"{spelling}pod": f"{JOB}-01234567-a1-x",
            "gpu": spelling or "0",
        }
        yield from (line for line in _family(gpu, [pod]) if spelling == "" or not line.startswith("#"))


def _family(metric: Metric, scraped: list[dict[str, str]]) -> Iterator[str]:
    yield f"# TYPE {metric.name.removesuffix('_total')} {metric.kind}"
    own = [
        dict(zip(metric.labels, chosen, strict=True))
        for chosen in itertools.product(*map(_values, metric.labels))
    ]
    for labels in (one | target for target in scraped for one in own):
        for suffix, added in _series(metric):
            shown = ",".join(f'{name}="{value}"' for name, value in (labels | added).items())
            for number in range(121):
                yield f"{metric.name}{suffix}{{{shown}}} {_value(metric, number)} {BEGIN + number * STEP}"


def _values(label: str) -> list[str]:
    return VALUES.get(label, [label])


def _series(metric: Metric) -> list[tuple[str, dict[str, str]]]:
    if metric.kind is not Kind.HISTOGRAM:
        return [("", {})]
    bounds = [*map(str, map(float, metric.buckets)), "+Inf"]
    return [*(("_bucket", {"le": bound}) for bound in bounds), ("_count", {}), ("_sum", {})]


def _value(metric: Metric, number: int) -> float:
    if metric.unit is Unit.TIMESTAMP:
        return BEGIN + number * STEP / 2
    if metric.unit is Unit.ONE:
        return 1
    return number / 120 if metric.unit is Unit.RATIO else number
