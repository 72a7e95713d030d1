"""A keyed queue: one reconcile at a time per FineTuneJob, retried with growing pauses, requeued on request.

Namespaces take turns, so that a team with thousands of jobs delays another team's job by one reconcile only. Within a
namespace, jobs that wait for their first child go before those that only have something to report.
"""

import asyncio
import heapq
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from aiohttp import ClientError

from finetune_core.backoff import backoff, jitter
from finetune_operator.cache import Key
from finetune_operator.errors import OperatorError

logger = logging.getLogger(__name__)

Reconcile = Callable[[Key], Awaitable[float | None]]
"""Handles a key; returns the seconds after which to requeue it."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_URGENT_IN_A_ROW = 7


class _Keys:
    """The keys of a namespace: urgent ones first, but one of eight is another one, if any waits.

    What a running job has to report takes an eighth of the visits from a flood of new jobs, and is not stopped by it.
    """

    def __init__(self) -> None:
        self.urgent, self.others = deque[Key](), deque[Key]()
        self._urgent_in_a_row = 0

    def __bool__(self) -> bool:
        return bool(self.urgent or self.others)

    def take(self) -> Key:
        """The oldest of those whose turn it is."""
        if self.urgent and (self._urgent_in_a_row < _URGENT_IN_A_ROW or not self.others):
            self._urgent_in_a_row += 1
            return self.urgent.popleft()
        self._urgent_in_a_row = 0
        return self.others.popleft()


class TurnsQueue:
    """Keys by namespace: a key of the namespace whose turn it is comes next."""

    def __init__(self) -> None:
        self._namespaces: OrderedDict[str, _Keys] = OrderedDict()
        """In the order of their turns; those without keys are absent."""
        self._keys = asyncio.Semaphore(0)
        self._urgent = 0
        self.calm = asyncio.Event()
        """Set while no urgent key waits."""
        self.calm.set()

    def put(self, key: Key, *, urgent: bool = False) -> None:
        """Add a key. A namespace that had none is the last in turn."""
        keys = self._namespaces.setdefault(key.namespace, _Keys())
        (keys.urgent if urgent else keys.others).append(key)
        self._count(urgent)
        self._keys.release()

    async def get(self) -> Key:
        """Wait for a key and remove it."""
        await self._keys.acquire()
        namespace, keys = self._namespaces.popitem(last=False)
        before = len(keys.urgent)
        key = keys.take()
        self._count(len(keys.urgent) - before)
        if keys:
            self._namespaces[namespace] = keys
        return key

    def _count(self, more: int) -> None:
        self._urgent += more
        (self.calm.clear if self._urgent else self.calm.set)()


class WorkQueue:
    """Keys wait here until a worker is free. A key added while it is processed is requeued, so nothing is lost.

    A standby, which is not `wanted`, keeps no keys: who begins to lead adds all. What is `urgent` when it is added goes
    before others of its namespace.

    A reconcile that takes longer than `time_limit` seconds is cancelled and retried like one that fails: no key keeps
    a worker for good.
    """

    def __init__(
        self,
        reconcile: Reconcile,
        workers: int,
        on_error: Callable[[], None],
        on_wait: Callable[[float], None],
        time_limit: float = 120.0,
        wanted: Callable[[], bool] = lambda: True,
        urgent: Callable[[Key], bool] = lambda _: False,
    ) -> None:
        self._reconcile, self._workers, self._time_limit = reconcile, workers, time_limit
        self._on_error, self._on_wait = on_error, on_wait
        self._wanted, self._urgent = wanted, urgent
        self._ready = TurnsQueue()
        self._queued: dict[Key, float] = {}
        self._processing: set[Key] = set()
        self._dirty: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._due: dict[Key, float] = {}
        self._timers: list[tuple[float, Key]] = []
        self._timer_set = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queued)

    @property
    def calm(self) -> asyncio.Event:
        """Set while no urgent key waits."""
        return self._ready.calm

    def add(self, key: Key) -> None:
        """Reconcile as soon as a worker is free."""
        if not self._wanted():
            return
        if key in self._processing:
            self._dirty.add(key)
        elif key not in self._queued:
            self._queued[key] = time.monotonic()
            self._ready.put(key, urgent=self._urgent(key))

    def add_after(self, key: Key, seconds: float) -> None:
        """Reconcile after a time; replaces an earlier deadline."""
        due = self._due[key] = time.monotonic() + seconds
        if len(self._timers) > 2 * len(self._due) + 100:
            self._timers = [(due, key) for key, due in self._due.items()]
            heapq.heapify(self._timers)
        else:
            heapq.heappush(self._timers, (due, key))
        self._timer_set.set()

    async def work(self) -> None:
        """Process keys until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._timer_loop())
            for _ in range(self._workers):
                group.create_task(self._worker())

    async def _worker(self) -> None:
        while True:
            key = await self._ready.get()
            self._on_wait(time.monotonic() - self._queued.pop(key))
            self._processing.add(key)
            try:
                await self._process(key)
            finally:
                self._processing.discard(key)
            if key in self._dirty:
                self._dirty.discard(key)
                self.add(key)

    async def _process(self, key: Key) -> None:
        try:
            async with asyncio.timeout(self._time_limit):
                requeue_after = await self._reconcile(key)
        except (OperatorError, ClientError, TimeoutError) as error:
            # what the API server or the network does needs no traceback
            pause, text = self._retry(key), str(error) or repr(error)
            logger.warning("reconcile of %s/%s failed, retrying in %.1f s: %s", *key, pause, text)
            return
        except Exception:
            pause = self._retry(key)
            logger.exception("reconcile of %s/%s failed, retrying in %.1f s", *key, pause)
            return
        self._failures.pop(key, None)
        self._due.pop(key, None)
        if requeue_after is not None:
            self.add_after(key, requeue_after)

    def _retry(self, key: Key) -> float:
        """Requeue a key that failed; returns the seconds until then."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause = jitter(backoff(failures, _FIRST_PAUSE, _LONGEST_PAUSE))
        self._on_error()
        self.add_after(key, pause)
        return pause

    async def _timer_loop(self) -> None:
        """Add the keys that are due."""
        while True:
            self._timer_set.clear()
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                due, key = heapq.heappop(self._timers)
                if self._due.get(key) == due:  # else the deadline was replaced
                    del self._due[key]
                    self.add(key)
            wait = self._timers[0][0] - now if self._timers else None
            try:
                await asyncio.wait_for(self._timer_set.wait(), wait)
            except TimeoutError:
                continue
