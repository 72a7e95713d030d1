"""Why Job controllers cannot make pods and kubelets cannot mount volumes, as their Events say."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cachetools import LRUCache

from finetune_core.wire import at, text, time_of
from finetune_operator.cluster import Cluster
from finetune_operator.errors import ApiError

Body = dict[str, Any]
Reasons = tuple[str, ...]

REFUSED: Reasons = ("FailedCreate",)
"""On a Job: its pod is refused."""
UNMOUNTED: Reasons = ("FailedMount", "FailedAttachVolume")
"""On a pod: one of its volumes cannot be attached or mounted."""

_SUMMARY = "Unable to attach or mount volumes"
"""How the kubelet begins to say which volumes are missing, without a cause."""
_TRUST, _SHARE = 5.0, 20
"""Seconds for which a LIST answers, or twenty times what it took: where thousands wait, a twentieth of the time."""
_MOST, _REMEMBERED = 10_000, 20_000
_LONGEST = 1024
_FORBIDDEN = 403


@dataclass(frozen=True, slots=True)
class Warned:
    """What an Event says, and when it did so last."""

    message: str
    time: datetime | None


@dataclass(frozen=True)
class _Listed:
    """The Events by the uid of their object, and until when they answer."""

    until: float
    events: dict[str, Warned]


def _size(listed: _Listed) -> int:
    return len(listed.events) + 1


class WarningEvents:
    """The newest such Event of each object. A LIST per namespace and reason, every few seconds, answers for all jobs.

    The API server reads all Events of a namespace for a LIST of a few: one for each job would be quadratic.
    """

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster, self._clock = cluster, clock
        self._listed: LRUCache[tuple[str, Reasons], _Listed] = LRUCache(_REMEMBERED, _size)
        self._listing: set[tuple[str, Reasons]] = set()

    async def newest(self, namespace: str, uid: str, reasons: Reasons) -> Warned | None:
        """The Event on the object with this uid; None without one, or if Events may not be read.

        While another job's question is being answered, the answer is from the LIST before: nobody waits for it.
        """
        of = namespace, reasons
        known = self._listed.get(of)
        old = known is None or self._clock() >= known.until
        if old and of not in self._listing:
            known = await self._list(namespace, reasons)
        return known.events.get(uid) if known else None

    async def _list(self, namespace: str, reasons: Reasons) -> _Listed:
        of, began = (namespace, reasons), self._clock()
        self._listing.add(of)
        try:
            events = await self._events(namespace, reasons)
        finally:
            self._listing.discard(of)
        took = self._clock() - began
        found = _Listed(began + max(_TRUST, _SHARE * took), events)
        self._listed[of] = found
        return found

    async def _events(self, namespace: str, reasons: Reasons) -> dict[str, Warned]:
        newest: dict[str, tuple[bool, int, Warned]] = {}
        try:
            for reason in reasons:
                async for page in self._cluster.pages("Event", namespace, fields=f"reason={reason}"):
                    for event in page:
                        _keep(newest, event)
                    if len(newest) >= _MOST:
                        break  # who may make Events decides how many there are
        except ApiError as error:
            if error.status != _FORBIDDEN:
                raise
        return {uid: warned for uid, (*_, warned) in newest.items()}


def _keep(newest: dict[str, tuple[bool, int, Warned]], event: Body) -> None:
    """Keep it if it says more than what is known of its object, or something newer."""
    uid, message = text(event, "involvedObject", "uid"), text(event, "message")
    if not uid or not message:
        return
    rank = not message.startswith(_SUMMARY), int(event["metadata"]["resourceVersion"])
    if uid not in newest or rank > newest[uid][:2]:
        moment = at(event, "lastTimestamp") or at(event, "eventTime")
        newest[uid] = *rank, Warned(message[:_LONGEST], time_of(moment))
