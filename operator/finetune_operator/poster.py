"""Posts Events beside the reconciles, which do not wait for them. A lost Event is never a failure."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import ClientError

from finetune_operator.cluster import Cluster
from finetune_operator.errors import AlreadyExistsError, OperatorError

logger = logging.getLogger(__name__)

Body = dict[str, Any]

_MOST = 10_000
_AT_ONCE = 2
_LAST_MOMENT = 2.0


class Poster:
    """Events that wait to be posted, the oldest first. When there are too many, the oldest are dropped and counted."""

    def __init__(self, cluster: Cluster, most: int = _MOST) -> None:
        self._cluster, self._most = cluster, most
        self._waiting: deque[Body] = deque()
        self._added = asyncio.Event()
        self._dropped = 0

    def add(self, events: list[Body]) -> None:
        """Post these as soon as others before them are."""
        for event in events:
            if len(self._waiting) >= self._most:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append(event)
            self._added.set()

    @asynccontextmanager
    async def posting(self) -> AsyncIterator[None]:
        """Post while the block lasts; at its end, what still waits, for a moment."""
        tasks = [asyncio.create_task(self._post_each()) for _ in range(_AT_ONCE)]
        try:
            yield
        finally:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.flush(), _LAST_MOMENT)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def flush(self) -> None:
        """Post all that wait now."""
        while self._waiting:
            await self._post(self._waiting.popleft())

    async def _post_each(self) -> None:
        while True:
            await self._added.wait()
            await self.flush()
            self._added.clear()
            if self._dropped:
                logger.warning("%d Events were not posted: there were too many at once", self._dropped)
                self._dropped = 0

    async def _post(self, event: Body) -> None:
        try:
            await self._cluster.create("Event", event)
        except AlreadyExistsError:
            return  # it was posted before, and says the same
        except (OperatorError, ClientError, TimeoutError, ValueError) as error:
            logger.warning("an Event was not posted: %r", error)
