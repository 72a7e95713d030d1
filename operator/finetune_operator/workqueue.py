"""A keyed queue: one run at a time per job, retried with growing pauses, looked at again when its time comes.

Keys carry their namespace, so that fairness between namespaces can be added behind the same interface.
"""

import asyncio
import heapq
import logging
import random
import time
from collections.abc import Awaitable, Callable

from finetune_operator.cache import JobKey

logger = logging.getLogger(__name__)

Run = Callable[[JobKey], Awaitable[float | None]]
"""Handles a key; answers the seconds after which to look again."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0


class WorkQueue:
    """Keys wait here until a worker is free. A key added while it runs is run again afterwards, so nothing is lost."""

    def __init__(
        self, run: Run, workers: int, on_error: Callable[[], None], on_wait: Callable[[float], None]
    ) -> None:
        self._run, self._workers = run, workers
        self._on_error, self._on_wait = on_error, on_wait
        self._ready: asyncio.Queue[JobKey] = asyncio.Queue()
        self._waiting: dict[JobKey, float] = {}
        self._running: set[JobKey] = set()
        self._again: set[JobKey] = set()
        self._failures: dict[JobKey, int] = {}
        self._due: dict[JobKey, float] = {}
        self._timers: list[tuple[float, JobKey]] = []
        self._timer_set = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: JobKey) -> None:
        """Ask for a run as soon as a worker is free."""
        if key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = time.monotonic()
            self._ready.put_nowait(key)

    def add_after(self, key: JobKey, seconds: float) -> None:
        """Ask for a run after a time, in place of an earlier wish: the newest look at a job knows best."""
        due = self._due[key] = time.monotonic() + seconds
        if len(self._timers) > 2 * len(self._due) + 100:
            self._timers = [(due, key) for key, due in self._due.items()]
            heapq.heapify(self._timers)
        else:
            heapq.heappush(self._timers, (due, key))
        self._timer_set.set()

    async def work(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ring())
            for _ in range(self._workers):
                group.create_task(self._worker())

    async def _worker(self) -> None:
        while True:
            key = await self._ready.get()
            self._on_wait(time.monotonic() - self._waiting.pop(key))
            self._running.add(key)
            try:
                await self._run_once(key)
            finally:
                self._running.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)

    async def _run_once(self, key: JobKey) -> None:
        try:
            look_again = await self._run(key)
        except Exception:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            pause = min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE) * random.uniform(0.8, 1.2)  # noqa: S311
            logger.exception("reconcile of %s/%s failed; again in %.1f s", key.namespace, key.name, pause)
            self._on_error()
            self.add_after(key, pause)
            return
        self._failures.pop(key, None)
        self._due.pop(key, None)
        if look_again is not None:
            self.add_after(key, look_again)

    async def _ring(self) -> None:
        """Move keys whose time has come to the ready ones."""
        while True:
            self._timer_set.clear()
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                due, key = heapq.heappop(self._timers)
                if self._due.get(key) == due:  # else the wish was replaced
                    del self._due[key]
                    self.add(key)
            wait = self._timers[0][0] - now if self._timers else None
            try:
                await asyncio.wait_for(self._timer_set.wait(), wait)
            except TimeoutError:
                continue
