"""What the operator counts and measures: functions named after what happened."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_api import exposition
from finetune_api.status import Phase, Reason
from finetune_core.decide.preflight import SKIPPED
from finetune_core.wire import at, items, number, text, time_of
from finetune_operator.cache import Cache, parent_key
from finetune_operator.metrics import definitions as all_of
from finetune_operator.metrics.figures import ENDS, known_reason, lost_steps, phase_of, queue_of, reason_of
from finetune_operator.metrics.jobs import Jobs
from finetune_operator.metrics.page import Part

Body = dict[str, Any]
M = TypeVar("M", Counter, Gauge)
RESULTS = (Phase.SUCCEEDED, Phase.FAILED)


class Metrics:
    """The registry of one operator process.

    Counters and histograms begin at zero with the process and count each change that the cache sees, once: after a
    restart the first LIST is where they begin, so nothing is counted again. Of several replicas only the leader counts
    and exposes jobs, so that a sum over all of them is right.
    """

    def __init__(
        self,
        cache: Cache,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self.registry = CollectorRegistry()
        self._jobs = Jobs(cache, now, leads)
        ProcessCollector(registry=self.registry)
        cache.on_change = self.changed
        self._finished = self._made(Counter, all_of.FINISHED)
        self._attempts = self._made(Counter, all_of.ATTEMPTS)
        self._lost_steps = self._made(Counter, all_of.LOST_STEPS)
        self._preflights = self._made(Counter, all_of.PREFLIGHTS)
        self._queue_wait = self._histogram(all_of.QUEUE_WAIT)
        self._duration = self._histogram(all_of.DURATION)
        self._reconcile = self._histogram(all_of.RECONCILE)
        self._errors = self._made(Counter, all_of.ERRORS)
        self._depth = self._made(Gauge, all_of.DEPTH)
        self._latency = self._histogram(all_of.LATENCY)
        self._requests = self._made(Counter, all_of.REQUESTS)
        self._refused = self._made(Counter, all_of.REFUSED)
        self._made(Gauge, all_of.LEADER).set_function(leads)
        self._leads = leads
        self._cache, self._namespaces = cache, set[str]()
        self._begin()

    def _made(self, kind: type[M], metric: exposition.Metric) -> M:
        return kind(metric.name, metric.help, metric.labels, registry=self.registry)

    def _histogram(self, metric: exposition.Metric) -> Histogram:
        return Histogram(
            metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry
        )

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Read the depth of the queue at every scrape."""
        self._depth.set_function(depth)

    def watch_ages(self, ages: Callable[[], dict[str, float]]) -> None:
        """Read at every scrape how old what is known of each kind is, in seconds."""
        self.registry.register(_Ages(ages))

    def expose(self) -> deque[Part]:
        """The text format in parts, of thousands of jobs some MiB. May be called in another thread."""
        self._begin_namespaces()
        return deque([generate_latest(self.registry), *self._jobs.parts()])

    def _begin(self) -> None:
        """Expose counters before they count: increase() does not see the first value of a new series."""
        self._queue_wait.labels("")
        for reason in (*ENDS, Reason.SUSPENDED):
            self._attempts.labels(reason)
        for end in (*ENDS, Reason.SUSPENDED, SKIPPED):
            self._preflights.labels(end)
        for result in RESULTS:
            self._duration.labels(result)

    def _begin_namespaces(self) -> None:
        """The same for the counters of a namespace, from its first job on."""
        for namespace in {key.namespace for key in list(self._cache.finetunejobs)} - self._namespaces:
            self._namespaces.add(namespace)
            self._lost_steps.labels(namespace)
            for reason in ENDS:
                result = Phase.SUCCEEDED if reason is Reason.SUCCEEDED else Phase.FAILED
                self._finished.labels(namespace, result, reason)

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

    def changed(self, before: Body, after: Body) -> None:
        """Count what a newer version of a FineTuneJob has newly begun or ended."""
        if (
            not self._leads() or parent_key(after) is not None
        ):  # a search counts as one job, whatever its trials do
            return
        old, new = before.get("status"), after.get("status")
        if old == new:
            return
        known = {number(one, "number"): one for one in items(old, "attempts")}
        earlier: Any = None
        for one in items(new, "attempts"):
            self._attempt_changed(after, known, earlier, one)
            earlier = one
        self._preflight_changed(at(old, "preflight"), at(new, "preflight"))
        if at(new, "completionTime") and not at(old, "completionTime"):
            self._end(after)

    def _attempt_changed(
        self, body: Body, known: dict[float | None, Any], earlier: Any, attempt: Any
    ) -> None:
        """`earlier` is the attempt before it, of which the first report of this one may tell more."""
        before = known.get(number(attempt, "number"))
        if at(attempt, "endTime") and not at(before, "endTime"):
            self._attempts.labels(known_reason(text(attempt, "reason"))).inc()
        since = time_of(at(attempt, "evictedTime") or at(attempt, "startTime"))
        running = time_of(at(attempt, "runningTime"))
        if since and running and not at(before, "runningTime"):
            waited = max(0.0, (running - since).total_seconds())
            self._queue_wait.labels(queue_of(body)).observe(waited)
        if at(attempt, "fromStep") is not None and at(before, "fromStep") is None:
            evicted = number(before, "evictions") and number(before, "toStep") is not None
            lost = lost_steps(before if evicted else earlier, attempt)
            self._lost_steps.labels(body["metadata"]["namespace"]).inc(lost)

    def _preflight_changed(self, before: Any, after: Any) -> None:
        """The status keeps the latest try only: one that is repeated in the same write is not seen."""
        same = number(before, "number") == number(after, "number")
        if at(after, "endTime") and not (same and at(before, "endTime")):
            self._preflights.labels(known_reason(text(after, "reason"))).inc()

    def _end(self, body: Body) -> None:
        status, result = body.get("status"), phase_of(body)
        self._finished.labels(body["metadata"]["namespace"], result, reason_of(status)).inc()
        started, ended = (time_of(at(status, key)) for key in ("startTime", "completionTime"))
        if started and ended:
            self._duration.labels(result).observe((ended - started).total_seconds())


class _Ages(Collector):
    def __init__(self, ages: Callable[[], dict[str, float]]) -> None:
        self._ages = ages

    def collect(self) -> Iterator[Metric]:
        metric = all_of.WATCH_AGE
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for kind, seconds in self._ages().items():
            family.add_metric([kind], seconds)
        yield family
