"""Events on transitions, as `kubectl describe` shows them. Pure."""

from datetime import datetime
from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_api.status import ConditionType, FineTuneJobStatus, Phase, Reason

_WARNINGS = {
    Reason.UNSCHEDULABLE,
    Reason.CLAIM_NOT_BOUND,
    Reason.MISSING_OBJECT,
    Reason.IMAGE_PULL_FAILED,
    Reason.WAITING_TO_RETRY,
    Reason.INVALID_SPEC,
    Reason.CHILD_REFUSED,
    Reason.CHILD_NAME_CONFLICT,
}


def transitions(
    body: dict[str, Any], before: FineTuneJobStatus, after: FineTuneJobStatus, now: datetime
) -> list[dict[str, Any]]:
    """An Event when the phase, the attempt or the reason changes; progress is none."""
    reason, message = _now_says(after)
    if (before.phase, before.attempt, _now_says(before)[0]) == (after.phase, after.attempt, reason):
        return []
    warning = after.phase is Phase.FAILED or reason in _WARNINGS
    return [_event(body, "Warning" if warning else "Normal", reason, message, now)]


def refused(body: dict[str, Any], message: str, now: datetime) -> dict[str, Any]:
    """An Event for what the status may not be able to say: the API server refuses what the operator asks.

    Its name is always the same, so that there is one of them however often it is tried.
    """
    event = _event(body, "Warning", "Refused", message[:1024], now)
    meta = body["metadata"]
    name = f"{meta['name']}.{meta['uid'][:8]}.refused"
    return event | {"metadata": {"name": name, "namespace": meta["namespace"]}}


def _now_says(status: FineTuneJobStatus) -> tuple[str, str]:
    running = next((c for c in status.conditions if c.type is ConditionType.RUNNING), None)
    return (running.reason, running.message) if running else ("", "")


def _event(body: dict[str, Any], kind: str, reason: str, message: str, now: datetime) -> dict[str, Any]:
    meta, time = body["metadata"], now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{meta['name']}.", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
        },
        "type": kind,
        "reason": reason,
        "message": message,
        "source": {"component": "finetune-operator"},
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
