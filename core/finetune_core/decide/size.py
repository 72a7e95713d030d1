"""Keeps a status under 32 KiB: drops history first, then values that the model's folder and the spec also have. Pure.

A status is sent to every watcher with every change, and an object that is too large cannot be written at all.
"""

import json
from typing import Any

from finetune_api.status import FineTuneJobStatus

LIMIT = 32 * 1024
_ATTEMPTS_OF_A_LARGE_STATUS = 5


def wire_within_limit(status: FineTuneJobStatus, limit: int = LIMIT) -> dict[str, Any]:
    """The wire form of the status, shrunk if it is too large."""
    wire = status.to_json()
    return wire if _bytes(wire) <= limit else shrink_to_limit(status, limit).to_json()


def shrink_to_limit(status: FineTuneJobStatus, limit: int = LIMIT) -> FineTuneJobStatus:
    """The status, as far as the limit requires without oldest evaluations and attempts, labels, and oldest trials."""
    while _size(status) > limit and status.epochs:
        status = status.model_copy(update={"epochs": status.epochs[len(status.epochs) // 2 + 1 :]})
    if _size(status) > limit:
        status = status.model_copy(update={"attempts": status.attempts[-_ATTEMPTS_OF_A_LARGE_STATUS:]})
    if _size(status) > limit and status.effective:
        effective = status.effective.model_copy(update={"labels": None})
        status = status.model_copy(update={"effective": effective})
    if status.trials:
        latest = status.trials.latest
        while _size(status) > limit and latest:
            latest = latest[len(latest) // 2 + 1 :]
            status = status.model_copy(update={"trials": status.trials.model_copy(update={"latest": latest})})
    return status


def _size(status: FineTuneJobStatus) -> int:
    return _bytes(status.to_json())


def _bytes(wire: dict[str, Any]) -> int:
    return len(json.dumps(wire).encode())
