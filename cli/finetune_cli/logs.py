"""The log of a job over all its attempts."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetune_api import uris
from finetune_api.status import AttemptStatus
from finetune_core import json_reading
from finetune_core.plan.naming import ATTEMPT, PREFLIGHT, index_in
from finetune_sdk import Job
from finetune_sdk.cluster import Body
from finetune_sdk.errors import ClusterError, NotFoundError, UnreachableError
from finetune_sdk.job import POLL_SECONDS


@dataclass(frozen=True)
class Wanted:
    """Which lines: of one attempt or of all, of the pod of one node or, with None, of all."""

    attempt: int | None = None
    node: int | None = 0
    follow: bool = False
    raw: bool = False
    tail: int | None = None


def lines_of(job: Job, wanted: Wanted) -> Iterator[str]:
    """The lines of every attempt, each pod with a headline; an attempt whose pod is gone is said to be.

    With `follow` it goes on with the next attempts until the job has finished.
    """
    only = wanted.attempt
    shown: set[int] = set()
    if only is None:
        yield from _preflight(job, wanted)
    while True:
        for number in _attempts(job):
            if number in shown or only not in (None, number):
                continue
            shown.add(number)
            yield from _attempt(job, number, wanted)
        if not wanted.follow or job.finished or (only is not None and only in shown):
            return
        time.sleep(POLL_SECONDS)
        job.refresh()


def _attempts(job: Job) -> list[int]:
    return [attempt.number for attempt in job.status.attempts]


def _preflight(job: Job, wanted: Wanted) -> Iterator[str]:
    """The log of the last try of preflight, as far as it is written, while its pod is there."""
    found = job.status.preflight
    pods = [pod for pod in job.pods() if pod["metadata"]["labels"].get(PREFLIGHT)] if found else []
    if not pods:
        return
    name = max(pods, key=lambda pod: int(pod["metadata"]["labels"][PREFLIGHT]))["metadata"]["name"]
    yield f"── preflight, pod {name}"
    yield from _lines(job, name, replace(wanted, follow=False))


def _attempt(job: Job, number: int, wanted: Wanted) -> Iterator[str]:
    pods = _pods_of(job, number, wanted)
    record = next((one for one in job.status.attempts if one.number == number), None)
    if not pods:
        which = f" of node {wanted.node}" if wanted.node else ""
        yield f"── attempt {number}{which}: {_gone(record, _kept(job, number, wanted.node))}"
    for pod in pods:
        yield from _pod(job, number, pod, wanted)


def _pod(job: Job, number: int, pod: Body, wanted: Wanted) -> Iterator[str]:
    name = pod["metadata"]["name"]
    yield f"── attempt {number}, pod {name}"
    yield from _lines(job, name, wanted)


def _lines(job: Job, name: str, wanted: Wanted) -> Iterator[str]:
    try:
        for line in job.log(name, follow=wanted.follow, tail=wanted.tail):
            yield line if wanted.raw else readable(line)
    except NotFoundError as error:
        deleted = f'"{name}"' in str(error)  # else its node is not there
        yield (
            f"── the pod {name} was deleted, and its log with it"
            if deleted
            else f"── no log of {name}: {error}"
        )
    except UnreachableError:
        raise
    except ClusterError as error:
        yield f"── no log of {name}: {error}"


def _pods_of(job: Job, number: int, wanted: Wanted) -> list[Body]:
    """The attempt's pods, the newest of each node; one that has not started is waited for, with `follow`."""
    while True:
        own = [pod for pod in job.pods() if pod["metadata"]["labels"].get(ATTEMPT) == str(number)]
        by_node = {index_in(pod["metadata"]["labels"]): pod for pod in own}
        pods = [by_node[node] for node in sorted(by_node) if wanted.node in (None, node)]
        started = any(pod.get("status", {}).get("phase", "Pending") != "Pending" for pod in pods)
        open_attempt = any(one.number == number and one.end_time is None for one in job.status.attempts)
        if started or not wanted.follow or not open_attempt:
            return pods
        time.sleep(POLL_SECONDS)
        job.refresh()


def _gone(record: AttemptStatus | None, kept: str) -> str:
    if record is None or record.end_time is None:
        return "it has no pod yet"
    why = f" It ended with {record.reason}: {record.message}" if record.reason and record.message else ""
    return f"its pod is gone{kept or ', and its log with it'}.{why}"


def _kept(job: Job, number: int, node: int | None) -> str:
    """Where a trainer keeps the end of its log, as part of a sentence. To read a claim takes a pod that mounts it."""
    uri = job.status.effective.output_uri if job.status.effective else None
    if uri is None or job.spec.command or job.spec.search or job.spec.ensemble:
        return ""
    of_node = f"-node-{node}" if node else ""
    return (
        f"; the end of its log is on the claim {uris.parse(uri).name} in"
        f" .finetune/{job.uid}/logs/attempt-{number}{of_node}.log, for a pod that mounts the claim"
    )


def readable(line: str) -> str:
    """A line of the trainer's log as time, level and message; any other line as it is."""
    try:
        record = json_reading.loads(line)
        moment, level, message = record["time"], record["level"], record["message"]
    except (ValueError, KeyError, TypeError):
        return line
    loud = "" if level == "info" else f"{level}: "
    return f"{str(moment)[11:19]} {loud}{message}"
