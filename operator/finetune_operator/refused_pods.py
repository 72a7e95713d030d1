"""Why Job controllers cannot make pods, as their Events say."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache

from finetune_core.wire import text
from finetune_operator.cluster import Cluster
from finetune_operator.errors import ApiError

Body = dict[str, Any]

_FIELDS = "reason=FailedCreate"
_TRUST = 5.0
_MOST, _REMEMBERED = 10_000, 20_000
_LONGEST = 1024
_FORBIDDEN = 403


@dataclass(frozen=True)
class _Listed:
    """The messages by the uid of their Job, and when they were listed."""

    at: float
    messages: dict[str, str]


def _size(listed: _Listed) -> int:
    return len(listed.messages) + 1


class RefusedPods:
    """The newest such Event of each Job. One LIST per namespace, every few seconds, answers for all of its jobs.

    The API server reads all Events of a namespace for a LIST of a few: one for each job would be quadratic.
    """

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster, self._clock = cluster, clock
        self._listed: LRUCache[str, _Listed] = LRUCache(_REMEMBERED, _size)
        self._listing: set[str] = set()

    async def why(self, namespace: str, uid: str) -> str | None:
        """The message on the Job with this uid; None without one, or if Events may not be read.

        While another job's question is being answered, the answer is from the LIST before: nobody waits for it.
        """
        known = self._listed.get(namespace)
        old = known is None or self._clock() - known.at >= _TRUST
        if old and namespace not in self._listing:
            known = await self._list(namespace)
        return known.messages.get(uid) if known else None

    async def _list(self, namespace: str) -> _Listed:
        self._listing.add(namespace)
        try:
            found = _Listed(self._clock(), await self._messages(namespace))
        finally:
            self._listing.discard(namespace)
        self._listed[namespace] = found
        return found

    async def _messages(self, namespace: str) -> dict[str, str]:
        newest: dict[str, tuple[int, str]] = {}
        try:
            async for page in self._cluster.pages("Event", namespace, fields=_FIELDS):
                for event in page:
                    _keep(newest, event)
                if len(newest) >= _MOST:
                    break  # who may make Events decides how many there are
        except ApiError as error:
            if error.status != _FORBIDDEN:
                raise
        return {uid: message for uid, (_, message) in newest.items()}


def _keep(newest: dict[str, tuple[int, str]], event: Body) -> None:
    uid, message = text(event, "involvedObject", "uid"), text(event, "message")
    version = int(event["metadata"]["resourceVersion"])
    if uid and message and version > newest.get(uid, (0, ""))[0]:
        newest[uid] = version, message[:_LONGEST]
