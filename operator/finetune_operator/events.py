"""Events on transitions, as `kubectl describe` shows them. Pure."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_api.status import FineTuneJobStatus, Phase, Reason
from finetune_core.decide.conditions import running_of

_WARNINGS = {
    Reason.UNSCHEDULABLE,
    Reason.CLAIM_NOT_BOUND,
    Reason.OUTPUT_TAKEN,
    Reason.MISSING_OBJECT,
    Reason.IMAGE_PULL_FAILED,
    Reason.STORAGE_FAILED,
    Reason.WAITING_TO_RETRY,
    Reason.INVALID_SPEC,
    Reason.CHILD_REFUSED,
    Reason.CHILD_NAME_CONFLICT,
}


@dataclass(frozen=True, slots=True)
class Event:
    """What an Event says of a FineTuneJob; thousands may wait until the API server has time for their bodies."""

    namespace: str
    job: str
    uid: str
    version: str
    """The job's resourceVersion."""
    type: str
    reason: str
    message: str
    time: datetime
    name: str | None = None
    """None lets the API server choose one."""
    first: datetime | None = None
    """When the first of those that it stands for happened; None if it stands for itself."""
    count: int = 1

    def joined_to(self, earlier: "Event") -> "Event":
        """This one, which also stands for an earlier one that was not posted."""
        return replace(self, first=earlier.first or earlier.time, count=earlier.count + self.count)

    def body(self) -> dict[str, Any]:
        """The Event as Kubernetes takes it."""
        name = {"name": self.name} if self.name else {"generateName": f"{self.job}."}
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": name | {"namespace": self.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": self.namespace,
                "name": self.job,
                "uid": self.uid,
                "resourceVersion": self.version,
            },
            "type": self.type,
            "reason": self.reason,
            "message": self.message,
            "source": {"component": "finetune-operator"},
            "firstTimestamp": _second(self.first or self.time),
            "lastTimestamp": _second(self.time),
            "count": self.count,
        }


def _second(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def transitions(
    body: dict[str, Any], before: FineTuneJobStatus, after: FineTuneJobStatus, now: datetime
) -> list[Event]:
    """An Event when the phase, the attempt or the reason changes; progress is none."""
    reason, message = _now_says(after)
    if (before.phase, before.attempt, _now_says(before)[0]) == (after.phase, after.attempt, reason):
        return []
    warning = after.phase is Phase.FAILED or reason in _WARNINGS
    return [_event(body, "Warning" if warning else "Normal", reason, message, now)]


def refused(body: dict[str, Any], message: str, now: datetime) -> Event:
    """An Event for what the status may not be able to say: the API server refuses what the operator asks.

    Its name is always the same, so that there is one of them however often it is tried.
    """
    meta = body["metadata"]
    name = f"{meta['name']}.{meta['uid'][:8]}.refused"
    return _event(body, "Warning", "Refused", message[:1024], now, name)


def _now_says(status: FineTuneJobStatus) -> tuple[str, str]:
    running = running_of(status.conditions)
    return (running.reason, running.message) if running else ("", "")


def _event(
    body: dict[str, Any], kind: str, reason: str, message: str, now: datetime, name: str | None = None
) -> Event:
    meta = body["metadata"]
    identity = meta["namespace"], meta["name"], meta["uid"], meta["resourceVersion"]
    return Event(*identity, kind, reason, message, now, name)
