"""Series of the jobs in the cache, read from it at every scrape, so that they cannot drift from it.

A scrape runs in another thread: what it iterates over are copies that one call of the interpreter makes.
"""

from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from heapq import nlargest
from itertools import islice
from typing import Any

from finetune_api.status import Phase
from finetune_core.decide.observation import PodView
from finetune_core.wire import at, items, text, time_of
from finetune_operator.cache import Cache, Child, Key, parent_key
from finetune_operator.metrics.definitions import (
    DROPPED_JOBS,
    DROPPED_SERIES,
    EXCLUDED,
    JOBS,
    POD,
    UNSERVED,
)
from finetune_operator.metrics.figures import Figure, figures, is_parent, own_gpu_seconds, phase_of
from finetune_operator.metrics.page import Page

Body = dict[str, Any]

FINISHED_KEPT = 1000
"""Finished jobs that keep their series."""
FINISHED_FOR = timedelta(hours=1)
SERIES_KEPT = 25
"""Series of one job."""
PODS_KEPT = 8
"""Of them, those of its pods: a job may have more pods than series."""
NODES_KEPT = 50
"""Nodes of which the jobs that avoid them are counted: anybody who may write a status may write any name."""


class Jobs:
    """What the leader exposes of the cache; `now` is the clock."""

    def __init__(self, cache: Cache, now: Callable[[], datetime], leads: Callable[[], bool]) -> None:
        self._cache, self._now, self._leads = cache, now, leads

    def parts(self) -> list[memoryview]:
        """The text of each metric; none of a standby."""
        if not self._leads():
            return []
        now, bodies = self._now(), list(self._cache.finetunejobs.items())
        jobs = {key: body for key, body in bodies if parent_key(body) is None}
        shown, dropped_jobs = _shown(jobs, now)
        spent = _gpu_seconds(bodies, {key for key, _ in shown}, now)
        page = Page()
        dropped_series = 0
        for key, body in shown:
            pods = self._pods(body)
            found = iter((*pods[:PODS_KEPT], *figures(body, now, spent[key])))
            for figure in islice(found, SERIES_KEPT):
                page.add(figure.metric, (*key, *figure.labels), figure.value)
            dropped_series += sum(1 for _ in found) + len(pods[PODS_KEPT:])
        for (namespace, phase), count in Tally(
            (key.namespace, phase_of(body)) for key, body in jobs.items()
        ).items():
            page.add(JOBS, (namespace, phase), count)
        for node, count in _excluded(bodies, now).most_common(NODES_KEPT):
            page.add(EXCLUDED, (node,), count)
        for namespace in list(self._cache.unserved):
            page.add(UNSERVED, (namespace,), 1)
        page.add(DROPPED_JOBS, (), dropped_jobs)
        page.add(DROPPED_SERIES, (), dropped_series)
        return page.parts()

    def _pods(self, body: Body) -> list[Figure]:
        """The pods that DCGM's series can be joined with."""
        pods = list(self._cache.children["Pod"].get(body["metadata"]["uid"], {}).values())
        return [Figure(POD, 1, (child.at.name,)) for child in pods if _runs(child)]


def _shown(jobs: dict[Key, Body], now: datetime) -> tuple[list[tuple[Key, Body]], int]:
    """Living jobs and the newest of those that finished within the hour; how many of the latter are dropped.

    Times in a status all have one format, in which later ones are larger.
    """
    since = f"{now - FINISHED_FOR:%Y-%m-%dT%H:%M:%SZ}"
    ends = {key: text(body, "status", "completionTime") for key, body in jobs.items()}
    recent = [(end, key) for key, end in ends.items() if end and end >= since]
    kept = nlargest(FINISHED_KEPT, recent)
    shown = [key for key, end in ends.items() if not end] + [key for _, key in kept]
    return [(key, jobs[key]) for key in shown], len(recent) - len(kept)


def _gpu_seconds(
    bodies: Iterable[tuple[Key, Body]], wanted: Collection[Key], now: datetime
) -> dict[Key, float]:
    """GPU-seconds of the wanted jobs; those of a trial or member count for its parent."""
    spent = dict.fromkeys(wanted, 0.0)
    for key, body in bodies:
        of = parent_key(body) or key
        if of in spent and not is_parent(body):
            spent[of] += own_gpu_seconds(body, now)
    return spent


def _excluded(bodies: Iterable[tuple[Key, Body]], now: datetime) -> Tally[str]:
    """Unfinished jobs, trials and members by the nodes that they avoid."""
    living = (body for _, body in bodies if not text(body, "status", "completionTime"))
    return Tally(node for body in living for node in _avoided(body, now))


def _avoided(body: Body, now: datetime) -> set[str]:
    found = set()
    for one in items(body, "status", "excludedNodes"):
        until, node = time_of(at(one, "until")), text(one, "node")
        if node and until and until > now:
            found.add(node)
    return found


def _runs(child: Child) -> bool:
    living = (Phase.PENDING.value, Phase.RUNNING.value)
    return isinstance(child.view, PodView) and not child.deleted and child.view.phase in living
