"""All jobs: what runs, what waits, what has failed, and what it cost."""

from collections.abc import Iterator

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import panels
from grafana.panels import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, YELLOW, Query, field, steps

HERE = 'namespace=~"$namespace"'
STATE = f"finetune_job_state{{{HERE}}}"
ENDED = f"last_over_time(finetune_job_completion_timestamp_seconds{{{HERE}}}[$__range]) * 1000 >= $__from"
"""The end is a timestamp, so that a restart of the operator neither counts a job twice nor loses one."""
PHASES = {"Pending": YELLOW, "Running": BLUE, "Suspended": PURPLE, "Succeeded": GREEN, "Failed": RED}


def ended(phase: str) -> str:
    """The jobs that ended so in the period, with the labels of their last state."""
    last = f'last_over_time(finetune_job_state{{{HERE},phase="{phase}"}}[$__range])'
    return f"max by (namespace, name, reason) ({last}) and on (namespace, name) ({ENDED})"


def now(phases: str, value: str) -> str:
    """A figure of the jobs that are in one of these phases now."""
    return (
        f"max by (namespace, name) ({value}) "
        f'and on (namespace, name) finetune_job_state{{{HERE},phase=~"{phases}"}}'
    )


def dashboard() -> Dashboard:
    """Numbers first, then curves, then lists of jobs."""
    made = panels.dashboard(
        "finetune-fleet", "Fine-tuning / Fleet", "All FineTuneJobs: what runs, waits, fails and costs."
    ).with_variable(
        panels.variable("namespace", "Namespace", "label_values(finetune_jobs, namespace)", several=True)
    )
    parts = {
        "": _numbers(),
        "Over time": (*_curves(), *_bars()),
        "Queues and preflight": _before_training(),
        "Jobs": (_live(), _failed(), _alerts(), _compared()),
    }
    return panels.assemble(made, parts)


def _numbers() -> Iterator[Builder[Panel]]:
    yield panels.number(
        "Running",
        "Jobs that train now. Trials of a search and members of an ensemble are part of their job.",
        "short",
        Query(panels.or_zero(f'sum(finetune_jobs{{{HERE},phase="Running"}})')),
        width=3,
        colors=steps(BLUE),
    )
    yield panels.number(
        "Pending",
        "Jobs that wait: for quota, a node, a volume, an image, preflight or a retry. The list below has each reason.",
        "short",
        Query(panels.or_zero(f'sum(finetune_jobs{{{HERE},phase="Pending"}})')),
        width=3,
        colors=steps(GREY, (1, YELLOW)),
    )
    yield panels.number(
        "Longest wait",
        "Age of the oldest pending job.",
        "s",
        Query(f"max({now('Pending', f'time() - finetune_job_created_timestamp_seconds{{{HERE}}}')})"),
        width=3,
        absent="–",
        colors=steps(GREY, (600, YELLOW), (3600, RED)),
    )
    yield panels.number(
        "Succeeded",
        "Jobs that ended with a model in the period.",
        "short",
        Query(panels.or_zero(f"count({ended('Succeeded')})")),
        width=3,
        colors=steps(GREY, (0, GREEN)),
    )
    yield panels.number(
        "Failed",
        "Jobs that ended without a model in the period.",
        "short",
        Query(panels.or_zero(f"count({ended('Failed')})")),
        width=3,
        colors=steps(GREY, (0, GREEN), (1, RED)),
    )
    yield panels.number(
        "GPUs in use",
        "GPUs that running containers hold, whether busy or not.",
        "short",
        Query(panels.or_zero(f"sum(rate(finetune_job_gpu_seconds_total{{{HERE}}}[$__rate_interval]))")),
        width=3,
        decimals=1,
    )
    spent, ratio = (
        f"max by (namespace, name) (finetune_job_{metric}{{{HERE}}})"
        for metric in ("gpu_seconds_total", "goodput_ratio")
    )
    yield panels.number(
        "Goodput",
        "Share of the GPU time that was spent on training that no retry had to repeat, of the jobs shown here.",
        "percentunit",
        Query(f"sum({ratio} * {spent}) / sum({spent} and {ratio})"),
        width=3,
        absent="–",
        colors=steps(GREY, (0, RED), (0.5, YELLOW), (0.8, GREEN)),
    )
    yield panels.number(
        "Avoided nodes",
        "Nodes on which two of the last three failures of a job happened; the job avoids each for a day. "
        "Several jobs that avoid one: look at its GPUs.",
        "short",
        Query(panels.or_zero("count(max by (node) (finetune_excluded_node_jobs))")),
        width=3,
        colors=steps(GREY, (0, GREEN), (1, YELLOW)),
    )


def _curves() -> Iterator[Builder[Panel]]:
    yield panels.lines(
        "Jobs by phase",
        "Jobs that exist. Deleted jobs, and ended ones after their time to live, are gone from it.",
        "short",
        [
            Query(f'sum(finetune_jobs{{{HERE},phase="{phase}"}})', phase, color)
            for phase, color in PHASES.items()
        ],
        width=12,
        stacked=True,
    )
    wait = "increase(finetune_job_queue_wait_seconds_bucket[1h])"
    yield panels.lines(
        "Wait before a container starts",
        "From the start of an attempt to the start of its container, of the attempts of the last hour: "
        "half of them waited less than the median.",
        "s",
        [
            Query(f"histogram_quantile(0.5, sum by (le) ({wait}))", "median", BLUE),
            Query(f"histogram_quantile(0.9, sum by (le) ({wait}))", "90th percentile", ORANGE),
        ],
        width=12,
        limit=steps(GREEN, (3600, RED)),
    )


def _bars() -> Iterator[Builder[Panel]]:
    yield panels.bars(
        "Failures by reason",
        "Jobs that failed in the period. Each reason has a remedy in the page on troubleshooting.",
        "short",
        Query(f"sort_desc(count by (reason) ({ended('Failed')}))", "{{reason}}"),
        width=6,
        height=6,
        colors=steps(RED),
    )
    yield panels.bars(
        "Attempts by reason of their end",
        "Attempts that ended in the period. Many that were Preempted, OutOfMemory or Crashed cost time "
        "even if their jobs succeed later.",
        "short",
        Query(
            "sort_desc(sum by (reason) (round(increase(finetune_job_attempts_total[$__range]))) > 0)",
            "{{reason}}",
        ),
        width=6,
        height=6,
        colors=steps(BLUE),
    )
    yield panels.bars(
        "GPU time by namespace",
        "Time for which containers ran in the period, times the GPUs that they held.",
        "s",
        Query(
            f"sort_desc(sum by (namespace) (increase(finetune_job_gpu_seconds_total{{{HERE}}}[$__range])))",
            "{{namespace}}",
        ),
        width=5,
        height=6,
        colors=steps(PURPLE),
    )
    yield panels.bars(
        "Lowest goodput",
        "Share of the GPU time that was spent on training that no retry had to repeat, of the ten jobs with the least.",
        "percentunit",
        Query(f"sort(bottomk(10, min by (name) (finetune_job_goodput_ratio{{{HERE}}})))", "{{name}}"),
        width=7,
        height=6,
        colors=steps(RED, (0.5, YELLOW), (0.9, GREEN)),
        highest=1,
    )


def _before_training() -> Iterator[Builder[Panel]]:
    waiting = f'finetune_job_info{{{HERE},queue!=""}} and on (namespace, name) finetune_job_state{{phase="Pending"}}'
    yield panels.lines(
        "Jobs that wait in a queue",
        "Pending jobs by namespace and scheduling.queue, a LocalQueue of Kueue.",
        "short",
        [Query(f"count by (namespace, queue) ({waiting})", "{{namespace}}/{{queue}}")],
        stacked=True,
    )
    by_queue = "sum by (le, queue) (increase(finetune_job_queue_wait_seconds_bucket[1h]))"
    named = 'label_replace({}, "queue", "no queue", "queue", "")'
    yield panels.lines(
        "Wait by queue",
        "From the start of an attempt to the start of its container: nine of ten of the last hour waited less.",
        "s",
        [Query(named.format(f"histogram_quantile(0.9, {by_queue})"), "{{queue}}")],
        limit=steps(GREEN, (3600, RED)),
    )
    yield panels.bars(
        "Preflight by result",
        "Ended checks of data, model and output in the period. What failed here asked for no GPU.",
        "short",
        Query(
            "sort_desc(sum by (reason) (round(increase(finetune_job_preflights_total[$__range]))) > 0)",
            "{{reason}}",
        ),
        colors=steps(BLUE),
    )


def _live() -> Builder[Panel]:
    """Jobs that have not ended."""
    live = "Pending|Running|Suspended"
    state = f'max by (namespace, name, phase, reason) (finetune_job_state{{{HERE},phase=~"{live}"}})'
    queries = {
        "state": Query(state),
        "progress": Query(now(live, f"finetune_job_progress_ratio{{{HERE}}}")),
        "eta": Query(now("Running", f"finetune_job_eta_seconds{{{HERE}}}")),
        "loss": Query(now(live, f"finetune_job_loss{{{HERE}}}")),
        "attempt": Query(now(live, f"finetune_job_attempt{{{HERE}}}")),
        "report": Query(now("Running", f"time() - finetune_job_last_report_timestamp_seconds{{{HERE}}}")),
        "age": Query(now(live, f"time() - finetune_job_created_timestamp_seconds{{{HERE}}}")),
    }
    columns = {
        "namespace": "Namespace",
        "name": "Job",
        "phase": "Phase",
        "reason": "Reason",
        "progress": "Progress",
        "eta": "Time left",
        "loss": "Loss",
        "attempt": "Attempt",
        "report": "Last report",
        "age": "Age",
    }
    table = panels.rows(
        "Jobs that have not ended",
        "One row for each job. A job that is Running and has not reported for 10 minutes may be stuck.",
        queries,
        columns,
        sort_by="Age",
    )
    late = steps(GREY, (300, YELLOW), (600, RED))
    return (
        table.override_by_name("Job", list(panels.link_to_job()))
        .override_by_name("Phase", [panels.words(PHASES), panels.colored_text()])
        .override_by_name("Progress", [field("unit", "percentunit"), field("max", 1), *panels.bar_cell()])
        .override_by_name("Time left", [field("unit", "s")])
        .override_by_name(
            "Last report", [field("unit", "s"), field("thresholds", late.build()), panels.colored_text()]
        )
        .override_by_name("Age", [field("unit", "s")])
    )


def _failed() -> Builder[Panel]:
    """Jobs that failed in the period."""
    since = (
        f"max by (namespace, name) (time() - (({ENDED}) / 1000)) and on (namespace, name) ({ended('Failed')})"
    )
    table = panels.rows(
        "Jobs that failed in the period",
        "One row for each job that ended without a model; kubectl describe ftj NAME has the remedy.",
        {"failed": Query(ended("Failed")), "since": Query(since)},
        {"namespace": "Namespace", "name": "Job", "reason": "Reason", "since": "Time since its end"},
        width=12,
        height=7,
        sort_by="Time since its end",
    )
    return table.override_by_name("Job", list(panels.link_to_job())).override_by_name(
        "Time since its end", [field("unit", "s")]
    )


def _alerts() -> Builder[Panel]:
    """What the chart's alerts say now."""
    firing = (
        'max by (alertname, severity, namespace, name) (ALERTS{alertstate="firing",alertname=~"FineTune.+"})'
    )
    return panels.rows(
        "Firing alerts",
        "Of metrics.rules, in all namespaces. Each alert has a page with the remedy.",
        {"firing": Query(firing)},
        {"alertname": "Alert", "severity": "Severity", "namespace": "Namespace", "name": "Job"},
        width=12,
        height=7,
        sort_by="Severity",
    )


def _compared() -> Builder[Panel]:
    """What training gained, by jobs."""

    def last(metric: str, kept: str = "") -> str:
        found = f"last_over_time(finetune_job_{metric}{{{HERE}{kept}}}[$__range])"
        return f"max by (namespace, name, metric) ({found})"

    queries = {
        "baseline": Query(last("baseline_value")),
        "estimate": Query(last("improvement", ',bound="estimate"')),
        "low": Query(last("improvement", ',bound="low"')),
        "high": Query(last("improvement", ',bound="high"')),
    }
    columns = {
        "namespace": "Namespace",
        "name": "Job",
        "metric": "Metric",
        "baseline": "Baseline",
        "estimate": "Better by",
        "low": "At least",
        "high": "At most",
    }
    table = panels.rows(
        "Models compared with their baseline in the period",
        "One row for each job with training.evaluation.baseline or spec.gate. Negative: training made it worse. "
        "At least, at most: the ends of the 95 % interval.",
        queries,
        columns,
        height=7,
        sort_by="Better by",
    )
    better = steps(RED, (0, GREEN))
    return table.override_by_name("Job", list(panels.link_to_job())).override_by_name(
        "At least", [field("thresholds", better.build()), panels.colored_text()]
    )
