"""Kueue's labels and annotations on a FineTuneJob: which its Jobs get, and which would have no effect. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_core.plan.naming import QUEUE
from finetune_core.wire import at

PRIORITY = "kueue.x-k8s.io/priority-class"
MAX_TIME = "kueue.x-k8s.io/max-exec-time-seconds"
PASSED = (PRIORITY, MAX_TIME)
"""Labels that Kueue reads of a Job in a queue, and that no field of the spec says."""
_DOMAIN = "kueue.x-k8s.io/"
_MOST = 2**31 - 1
_KEPT = 4


def kueue_labels(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Kueue's labels in the metadata of a FineTuneJob: those that it reads of a Job, and some others."""
    found = {name: value for name, value in _texts(metadata, "labels") if _DOMAIN in name}
    known = {name: found.pop(name) for name in (QUEUE, *PASSED) if name in found}
    return known | dict(sorted(found.items())[:_KEPT])


def kueue_annotations(metadata: Mapping[str, Any]) -> list[str]:
    """The names of some of Kueue's annotations there."""
    return sorted(name for name, _ in _texts(metadata, "annotations") if _DOMAIN in name)[:_KEPT]


def _texts(metadata: Mapping[str, Any], part: str) -> list[tuple[str, str]]:
    found = at(dict(metadata), part)
    return [(str(name), str(value)) for name, value in found.items()] if isinstance(found, dict) else []


def passed(labels: Mapping[str, str]) -> dict[str, str]:
    """Those that the Jobs of a FineTuneJob, and its runs, get."""
    return {name: labels[name] for name in PASSED if labels.get(name)}


def faults_in(labels: Mapping[str, str], annotations: Iterable[str], spec: FineTuneJobSpec) -> Iterator[str]:
    """What is wrong with them, each with its place and the remedy: Kueue does not read a FineTuneJob."""
    queue = spec.scheduling.queue if spec.scheduling else None
    if labels.get(QUEUE) and labels[QUEUE] != queue:
        yield (
            f"metadata.labels: the label {QUEUE} on a FineTuneJob has no effect, and its pods would run past the queue;"
            f" write spec.scheduling.queue: {labels[QUEUE]} (while spec.suspend is true), or remove the label"
        )
    for name in PASSED:
        if labels.get(name) and queue is None:
            yield (
                f"metadata.labels: {name} has no effect without a queue; write spec.scheduling.queue (while"
                " spec.suspend is true), or remove the label"
            )
    if MAX_TIME in labels:
        yield from _faults_in_time(labels[MAX_TIME], spec)
    for part, names in (("labels", labels), ("annotations", annotations)):
        for name in names:
            if name not in (QUEUE, *PASSED) or part == "annotations":
                hint = (
                    "; scheduling.topologyKey keeps the pods of a job together" if "topology" in name else ""
                )
                yield f"metadata.{part}: {name} has no effect on a FineTuneJob; remove it{hint}"


def _faults_in_time(text: str, spec: FineTuneJobSpec) -> Iterator[str]:
    seconds = int(text) if text.isdecimal() and len(text) <= len(str(_MOST)) else 0
    limit = spec.active_deadline_seconds
    if not 1 <= seconds <= _MOST:
        yield f"metadata.labels: {MAX_TIME}: {text!r} is no number of seconds; write 1 to {_MOST}, without a unit"
    elif limit is not None and limit != seconds:
        yield (
            f"metadata.labels: {MAX_TIME}: {seconds} contradicts spec.activeDeadlineSeconds: {limit}; remove the label"
        )
