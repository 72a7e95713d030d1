"""The operator itself: whether it works, how fast it reacts, what the API server answers."""

from collections.abc import Iterator

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import panels
from grafana.panels import BLUE, GREEN, GREY, ORANGE, RED, YELLOW, Query, steps

OURS = "and on (instance) finetune_operator_leader"
"""Metrics of the process have no name of ours."""


def quantiles(metric: str) -> Iterator[Query]:
    """The median and the 99th percentile of a histogram."""
    rate = f"sum by (le) (rate({metric}_bucket[$__rate_interval]))"
    yield Query(f"histogram_quantile(0.5, {rate})", "median", BLUE)
    yield Query(f"histogram_quantile(0.99, {rate})", "99th percentile", ORANGE)


def dashboard() -> Dashboard:
    """Numbers first, then what it does, then what it needs."""
    made = panels.dashboard(
        "finetune-operator",
        "Fine-tuning / Operator",
        "The operator: whether it works, how fast it reacts, and what the API server answers.",
    )
    parts = {"": _numbers(), "Work": _work(), "API server": _requests(), "Process": _process()}
    return panels.assemble(made, parts)


def _numbers() -> Iterator[Builder[Panel]]:
    yield panels.number(
        "Leader",
        "Operators that reconcile. With 0, jobs that train go on, but nothing starts, retries or ends.",
        "short",
        Query("sum(finetune_operator_leader)"),
        absent="0",
        colors=steps(RED, (1, GREEN), (2, RED)),
        width=3,
    )
    yield panels.number(
        "Standbys",
        "Replicas that would take over. 0 is normal with replicas: 1.",
        "short",
        Query(panels.or_zero("count(finetune_operator_leader == 0)")),
        width=3,
        colors=steps(GREY, (1, GREEN)),
    )
    yield panels.number(
        "Takeovers",
        "Replicas that began to lead in the period, after another one had led.",
        "short",
        Query("count(max_over_time(finetune_operator_leader[$__range]) == 1) - 1"),
        width=3,
        colors=steps(GREY, (0, GREEN), (1, YELLOW)),
    )
    yield panels.number(
        "Waiting",
        "FineTuneJobs that wait for a reconcile. More than a few for minutes: the operator cannot keep up.",
        "short",
        Query("sum(finetune_operator_queue_depth)"),
        history=True,
        width=3,
        colors=steps(GREY, (0, GREEN), (50, YELLOW), (500, RED)),
    )
    yield panels.number(
        "Failed reconciles",
        "Reconciles in the period that failed and were retried. The operator's log has each.",
        "short",
        Query("round(sum(increase(finetune_operator_reconcile_errors_total[$__range])))"),
        colors=steps(GREY, (0, GREEN), (1, YELLOW), (20, RED)),
        width=3,
        decimals=0,
    )
    yield panels.number(
        "Oldest watch",
        "Time since the operator last heard of its least recent kind of object. Everything is compared once "
        "in ten minutes, so more than that means that a watch and the comparison both fail.",
        "s",
        Query("max(finetune_operator_watch_age_seconds)"),
        colors=steps(GREY, (0, GREEN), (660, YELLOW), (1200, RED)),
        width=3,
    )
    yield panels.number(
        "Not permitted",
        "Namespaces that the operator should serve and may not list.",
        "short",
        Query(panels.or_zero("sum(finetune_operator_namespace_unserved)")),
        colors=steps(GREY, (0, GREEN), (1, RED)),
        width=3,
    )
    yield panels.number(
        "Without series",
        "Jobs that finished within the last hour and are missing in these dashboards, because 1,000 newer "
        "ones are in them.",
        "short",
        Query("sum(finetune_operator_finished_jobs_dropped)"),
        colors=steps(GREY, (0, GREEN), (1, YELLOW)),
        width=3,
    )


def _work() -> Iterator[Builder[Panel]]:
    yield panels.lines(
        "Time of a reconcile",
        "From reading a FineTuneJob to the end of what follows from it.",
        "s",
        quantiles("finetune_operator_reconcile_duration_seconds"),
        limit=steps(GREEN, (5, RED)),
    )
    yield panels.lines(
        "Time in the queue",
        "From an event to the start of the reconcile that it asks for.",
        "s",
        quantiles("finetune_operator_queue_latency_seconds"),
        limit=steps(GREEN, (5, RED)),
    )
    rate = "sum(rate({}[$__rate_interval]))"
    yield panels.lines(
        "Reconciles",
        "Reconciles per second, and those that failed.",
        "ops",
        [
            Query(rate.format("finetune_operator_reconcile_duration_seconds_count"), "all", BLUE),
            Query(rate.format("finetune_operator_reconcile_errors_total"), "failed", RED),
        ],
    )


def _requests() -> Iterator[Builder[Panel]]:
    yield panels.lines(
        "Requests to the API server",
        "Requests per second by verb.",
        "reqps",
        [Query("sum by (verb) (rate(finetune_operator_api_requests_total[$__rate_interval]))", "{{verb}}")],
        stacked=True,
    )
    yield panels.lines(
        "Refused requests",
        "Requests per second that were not answered with success. 409 is normal in small numbers; 403 is a "
        "missing permission, 429 and 5xx an overloaded API server.",
        "reqps",
        [
            Query(
                'sum by (code) (rate(finetune_operator_api_requests_total{code!~"2.."}[$__rate_interval]))',
                "{{code}}",
            )
        ],
    )
    yield panels.lines(
        "Age of what is known",
        "Time since the last event of a kind, or since all its objects were last listed and compared.",
        "s",
        [Query("max by (kind) (finetune_operator_watch_age_seconds)", "{{kind}}")],
        limit=steps(GREY, (0, GREEN), (1200, RED)),
    )


def _process() -> Iterator[Builder[Panel]]:
    yield panels.lines(
        "Who leads",
        "1 for the replica that reconciles, 0 for standbys. A gap in which none leads: nobody starts or retries jobs.",
        "short",
        [Query("max by (pod) (finetune_operator_leader)", "{{pod}}")],
        width=6,
        highest=1,
    )
    yield panels.lines(
        "Memory",
        "Resident memory of each replica's process.",
        "bytes",
        [Query(f"max by (pod) (process_resident_memory_bytes {OURS})", "{{pod}}")],
        width=6,
    )
    yield panels.lines(
        "CPU",
        "Cores that each replica's process uses.",
        "short",
        [Query(f"max by (pod) (rate(process_cpu_seconds_total[$__rate_interval]) {OURS})", "{{pod}}")],
        width=6,
    )
    yield panels.lines(
        "Refused connections for progress",
        "Connections per second to the progress port that were closed, as their address had too many open.",
        "cps",
        [
            Query(
                "sum(rate(finetune_operator_progress_connections_refused_total[$__rate_interval]))",
                "refused",
                RED,
            )
        ],
        width=6,
    )
