"""The operator's Prometheus metrics: definitions, and functions named after what happened.

Names, paths and run ids are no labels, but on `finetune_job_…`, which exist for living jobs only.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_api.status import ENDED, FineTuneJobStatus, Phase
from finetune_core.wire import items, number, text
from finetune_operator.cache import Cache, parent_key

_HOURS = (60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400, 172800, 604800)
_FINISHED = (Phase.SUCCEEDED, Phase.FAILED)


class Metrics:
    """What the operator counts and measures."""

    def __init__(self, cache: Cache) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(_Jobs(cache))
        self._finished = Counter(
            "finetune_jobs_finished_total",
            "Finished jobs",
            ("namespace", "result", "reason"),
            registry=registry,
        )
        self._attempts = Counter(
            "finetune_job_attempts_total", "Ended attempts", ("reason",), registry=registry
        )
        self._duration = Histogram(
            "finetune_job_duration_seconds",
            "From the first attempt to the end",
            ("result",),
            buckets=_HOURS,
            registry=registry,
        )
        self._reconcile = Histogram(
            "finetune_operator_reconcile_duration_seconds", "Time of one reconcile", registry=registry
        )
        self._errors = Counter(
            "finetune_operator_reconcile_errors_total",
            "Reconciles that failed and were retried",
            registry=registry,
        )
        self._latency = Histogram(
            "finetune_operator_queue_latency_seconds",
            "Time from asking for a reconcile to its start",
            registry=registry,
        )
        self._requests = Counter(
            "finetune_operator_api_requests_total",
            "Requests to the API server",
            ("verb", "code"),
            registry=registry,
        )
        self._refused = Counter(
            "finetune_operator_progress_connections_refused_total",
            "Connections to the progress port that were closed, as their address had too many open",
            registry=registry,
        )
        self._depth = Gauge(
            "finetune_operator_queue_depth", "FineTuneJobs that wait for a reconcile", registry=registry
        )

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Read the depth of the queue at every scrape."""
        self._depth.set_function(depth)

    def expose(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)

    @contextmanager
    def reconcile(self) -> Iterator[None]:
        """Measure a reconcile."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._reconcile.observe(time.perf_counter() - start)

    def reconcile_failed(self) -> None:
        """Count a failed reconcile."""
        self._errors.inc()

    def waited(self, seconds: float) -> None:
        """Measure the time in the queue."""
        self._latency.observe(seconds)

    def request(self, verb: str, code: int) -> None:
        """Count a request to the API server."""
        self._requests.labels(verb, str(code)).inc()

    def connection_refused(self) -> None:
        """Count a connection that was closed at once."""
        self._refused.inc()

    def transition(self, namespace: str, before: FineTuneJobStatus, after: FineTuneJobStatus) -> None:
        """Count what a written status has newly ended."""
        ended = {attempt.number for attempt in before.attempts if attempt.end_time}
        for attempt in after.attempts:
            if attempt.end_time and attempt.number not in ended:
                self._attempts.labels(attempt.reason or "Unknown").inc()
        if after.phase in _FINISHED and before.phase not in _FINISHED:
            self._end(namespace, after)

    def _end(self, namespace: str, status: FineTuneJobStatus) -> None:
        assert status.phase
        reason = next((c.reason for c in status.conditions if c.type == "Running"), "Unknown")
        self._finished.labels(namespace, status.phase, reason).inc()
        if status.start_time and status.completion_time:
            seconds = (status.completion_time - status.start_time).total_seconds()
            self._duration.labels(status.phase).observe(seconds)


class _Jobs(Collector):
    """Gauges read from the cache at every scrape, so that they cannot drift from it."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        phases: Tally[tuple[str, str]] = Tally()
        progress = GaugeMetricFamily(
            "finetune_job_progress_ratio",
            "Share of the steps done, or of the trials or members that have ended, of jobs that run",
            labels=("namespace", "name"),
        )
        for key, body in self._cache.finetunejobs.items():
            if parent_key(body):
                continue  # a trial or member: its parent is the job
            phase = text(body, "status", "phase") or Phase.PENDING.value
            phases[key.namespace, phase] += 1
            ratio = _progress(body)
            if phase == Phase.RUNNING and ratio is not None:
                progress.add_metric([key.namespace, key.name], ratio)
        jobs = GaugeMetricFamily(
            "finetune_jobs", "FineTuneJobs without trials and members", labels=("namespace", "phase")
        )
        for (namespace, phase), count in phases.items():
            jobs.add_metric([namespace, phase], count)
        unserved = GaugeMetricFamily(
            "finetune_operator_namespace_unserved",
            "1 for a namespace that the operator should serve and may not list",
            labels=("namespace",),
        )
        for namespace in self._cache.unserved:
            unserved.add_metric([namespace], 1)
        yield from (jobs, progress, unserved)


def _progress(body: dict[str, Any]) -> float | None:
    """The share of steps done, or of the trials or members that have ended."""
    percent = number(body, "status", "progress", "percent")
    total, running, planned = (
        number(body, "status", "trials", part) for part in ("total", "running", "planned")
    )
    if total is not None and running is not None and planned:
        return (total - running) / planned
    if members := items(body, "status", "members"):
        return sum(text(one, "state") in ENDED for one in members) / len(members)
    return None if percent is None else percent / 100
