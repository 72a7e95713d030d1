"""The log of a job over all its attempts."""

import json
import time
from collections.abc import Iterator

from finetune_api.status import AttemptStatus
from finetune_core.plan.naming import ATTEMPT
from finetune_sdk import Job
from finetune_sdk.cluster import Body
from finetune_sdk.errors import ClusterError, NotFoundError, UnreachableError
from finetune_sdk.job import POLL_SECONDS


def lines_of(job: Job, *, only: int | None, follow: bool, raw: bool, tail: int | None) -> Iterator[str]:
    """The lines of every attempt, each attempt with a headline; an attempt whose pod is gone is said to be.

    With `follow` it goes on with the next attempts until the job has finished.
    """
    shown: set[int] = set()
    while True:
        for number in _attempts(job):
            if number in shown or only not in (None, number):
                continue
            shown.add(number)
            yield from _attempt(job, number, follow=follow, raw=raw, tail=tail)
        if not follow or job.finished or (only is not None and only in shown):
            return
        time.sleep(POLL_SECONDS)
        job.refresh()


def _attempts(job: Job) -> list[int]:
    return [attempt.number for attempt in job.status.attempts]


def _attempt(job: Job, number: int, *, follow: bool, raw: bool, tail: int | None) -> Iterator[str]:
    pod = _pod_of(job, number, follow)
    record = next((one for one in job.status.attempts if one.number == number), None)
    if pod is None:
        yield f"── attempt {number}: {_gone(record)}"
        return
    name = pod["metadata"]["name"]
    yield f"── attempt {number}, pod {name}"
    try:
        for line in job.log(name, follow=follow, tail=tail):
            yield line if raw else readable(line)
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


def _pod_of(job: Job, number: int, follow: bool) -> Body | None:
    """The attempt's pod; one that has not started is waited for, with `follow`."""
    while True:
        pods = [pod for pod in job.pods() if pod["metadata"]["labels"].get(ATTEMPT) == str(number)]
        pod = pods[-1] if pods else None
        started = pod is not None and pod.get("status", {}).get("phase", "Pending") != "Pending"
        open_attempt = any(one.number == number and one.end_time is None for one in job.status.attempts)
        if started or not follow or not open_attempt:
            return pod
        time.sleep(POLL_SECONDS)
        job.refresh()


def _gone(record: AttemptStatus | None) -> str:
    if record is None or record.end_time is None:
        return "it has no pod yet"
    why = f" It ended with {record.reason}: {record.message}" if record.reason and record.message else ""
    return f"its pod is gone, and its log with it.{why}"


def readable(line: str) -> str:
    """A line of the trainer's log as time, level and message; any other line as it is."""
    try:
        record = json.loads(line)
        moment, level, message = record["time"], record["level"], record["message"]
    except (ValueError, KeyError, TypeError):
        return line
    loud = "" if level == "info" else f"{level}: "
    return f"{str(moment)[11:19]} {loud}{message}"
