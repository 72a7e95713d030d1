"""Posts Events beside the reconciles, which do not wait for them. A lost Event is never a failure.

While new jobs wait for their children, an Event waits too, for a minute at most: each costs the API server as much
as half a child. One of a job that has had many waits until its budget allows it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from aiohttp import ClientError

from finetune_operator.cluster import Cluster
from finetune_operator.errors import AlreadyExistsError, OperatorError
from finetune_operator.event_budget import EventBudget
from finetune_operator.events import Event

logger = logging.getLogger(__name__)

_MOST = 30_000
_AT_ONCE, _AT_THE_END = 2, 16
_PATIENCE, _LOOK = 60.0, 1.0
_LAST_MOMENT = 2.0


class Poster:
    """Events that wait to be posted, the oldest first. When there are too many, the oldest are dropped and counted."""

    def __init__(
        self, cluster: Cluster, most: int = _MOST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster, self._most, self._clock = cluster, most, clock
        self._waiting: deque[tuple[float, Event]] = deque()
        """Each with the time at which it is posted in any case."""
        self._budget = EventBudget(clock)
        self._added = asyncio.Event()
        self._dropped = 0

    def add(self, events: list[Event]) -> None:
        """Post these after others before them."""
        self._queue([event for event in events if self._budget.admits(event)])

    @asynccontextmanager
    async def posting(self, calm: asyncio.Event) -> AsyncIterator[None]:
        """Post while the block lasts, above all while it is calm; at its end, what still waits, for a moment."""
        tasks = [asyncio.create_task(self._post_each(calm)) for _ in range(_AT_ONCE)]
        tasks.append(asyncio.create_task(self._queue_due()))
        try:
            yield
        finally:
            self._queue(self._budget.rest())
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_MOMENT):
                    await asyncio.gather(*[self.flush() for _ in range(_AT_THE_END)])
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._report(self._dropped + len(self._waiting), "the operator ended before they were taken")

    async def flush(self) -> None:
        """Post all that may be posted now."""
        self._queue(self._budget.due())
        while self._waiting:
            await self._post(self._waiting.popleft()[1])

    def _queue(self, events: list[Event]) -> None:
        for event in events:
            if len(self._waiting) >= self._most:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append((self._clock() + _PATIENCE, event))
            self._added.set()

    async def _queue_due(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            self._queue(self._budget.due())

    async def _post_each(self, calm: asyncio.Event) -> None:
        while True:
            await self._added.wait()
            while self._waiting:
                if self._now(calm):
                    await self._post(self._waiting.popleft()[1])
                else:
                    await self._until(calm)
            self._added.clear()
            self._report(self._dropped, "there were too many at once")
            self._dropped = 0

    def _now(self, calm: asyncio.Event) -> bool:
        """Whether the oldest may be posted: it is calm, it has waited long enough, or the others need its place."""
        return calm.is_set() or self._waiting[0][0] <= self._clock() or len(self._waiting) > self._most // 2

    async def _until(self, calm: asyncio.Event) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(calm.wait(), min(_LOOK, self._waiting[0][0] - self._clock()))

    def _report(self, number: int, why: str) -> None:
        if number:
            logger.warning("%d Events were not posted: %s", number, why)

    async def _post(self, event: Event) -> None:
        try:
            await self._cluster.create("Event", event.body())
        except AlreadyExistsError:
            return  # it was posted before, and says the same
        except asyncio.CancelledError:
            self._dropped += 1
            raise
        except (OperatorError, ClientError, TimeoutError, ValueError) as error:
            logger.warning("an Event was not posted: %r", error)
