"""Why Job controllers cannot make pods, as their Events say."""

from asyncio import Lock
from typing import Any

from cachetools import LRUCache, TTLCache

from finetune_core.wire import text
from finetune_operator.cluster import Cluster
from finetune_operator.errors import ApiError

Body = dict[str, Any]

_FIELDS = "reason=FailedCreate"
_TRUST = 5.0
_NAMESPACES = 1_000
_MOST = 10_000
_LONGEST = 1024
_FORBIDDEN = 403


class RefusedPods:
    """The newest such Event of each Job. One LIST per namespace, every few seconds, answers for all of its jobs.

    The API server reads all Events of a namespace for a LIST of a few: one for each job would be quadratic.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._found: TTLCache[str, dict[str, str]] = TTLCache(_NAMESPACES, _TRUST)
        self._turns: LRUCache[str, Lock] = LRUCache(_NAMESPACES)

    async def why(self, namespace: str, uid: str) -> str | None:
        """The message on the Job with this uid; None without one, or if Events may not be read."""
        async with self._turns.setdefault(namespace, Lock()):
            known = self._found.get(namespace)
            if known is None:
                known = self._found[namespace] = await self._list(namespace)
        return known.get(uid)

    async def _list(self, namespace: str) -> dict[str, str]:
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
