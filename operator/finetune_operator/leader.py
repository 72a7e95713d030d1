"""Leader election: this process holds the Lease, waits for it, or ends.

Every replica watches and keeps its cache warm. Only the leader reconciles, and its client stops a write that would be
sent after its time is over. The Lease has a separate client, so that its renewals wait for no other request.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import ClientError

from finetune_core.backoff import jitter
from finetune_core.settings import OperatorSettings
from finetune_operator.cluster import Cluster
from finetune_operator.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    LeadershipLostError,
    NotLeaderError,
    RewoundError,
)
from finetune_operator.lease import (
    RENEW_SECONDS,
    RETRY_SECONDS,
    Claim,
    Sight,
    Step,
    decide,
    held,
    look,
    released,
)

logger = logging.getLogger(__name__)

Body = dict[str, Any]

_FAILURES = (ApiError, ClientError, TimeoutError)
_REQUEST_SECONDS = 3.0
_SHORTEST_PAUSE = 0.1
_RUNNING = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"


class Leadership:
    """Whether this process leads, until when for certain, and where the leader takes progress reports."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._until = clock, -math.inf
        self._begun = asyncio.Event()
        self.leader: Claim | None = None
        """What the leader's Lease says; None before the first look."""

    @property
    def leads(self) -> bool:
        """Whether this process leads now."""
        return self._clock() < self._until

    @property
    def left(self) -> float:
        """Seconds for which it leads without another renewal."""
        return self._until - self._clock()

    def lead(self, until: float = math.inf) -> None:
        """It leads until then, on its clock."""
        self._until = until
        self._begun.set()

    def end(self) -> None:
        """It leads no more."""
        self._until = -math.inf
        self._begun.clear()

    async def begun(self) -> None:
        """Wait until it leads."""
        await self._begun.wait()

    def check(self) -> None:
        """Raises NotLeaderError."""
        if not self.leads:
            raise NotLeaderError("this process does not lead, so it writes nothing")

    def describe(self) -> str:
        """For people."""
        if self.leads:
            return "leader"
        return f"standby; {self.leader.holder if self.leader and self.leader.holder else 'nobody'} leads"


class Election:
    """Takes, renews and releases the Lease of `settings` for `leadership`; a `warm` process may begin to lead."""

    def __init__(
        self,
        cluster: Cluster,
        settings: OperatorSettings,
        leadership: Leadership,
        identity: str,
        warm: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster, self._leadership, self._warm, self._clock = cluster, leadership, warm, clock
        self._namespace, _, self._name = (settings.lease or "").partition("/")
        self._identity, self._address = identity, _address(settings)
        self._predecessors = settings.predecessors
        self._sight: Sight | None = None
        self._uid, self._version = "", 0
        self._leads = self._waits = False
        self._trouble = ""

    async def run(self) -> None:
        """Until cancelled. Raises LeadershipLostError."""
        while True:
            seconds = min(_REQUEST_SECONDS, self._leadership.left) if self._leads else _REQUEST_SECONDS
            await self._attempt(self._step, seconds)
            if self._leads and not self._leadership.leads:
                raise LeadershipLostError(
                    f"the Lease {self._place} could not be renewed for {RENEW_SECONDS:.0f} s"
                    f" ({self._trouble}); this process ends"
                )
            await asyncio.sleep(self._pause())

    async def release(self) -> None:
        """Leave the Lease to whoever looks next. The work has ended before, and `run` was cancelled."""
        leads = self._leadership.leads
        self._leadership.end()
        if leads:
            await self._attempt(self._leave, _REQUEST_SECONDS)

    @property
    def _place(self) -> str:
        return f"{self._namespace}/{self._name}"

    async def _attempt(self, what: Callable[[], Awaitable[None]], seconds: float) -> None:
        """What fails is tried again by whoever asks; the log has it once."""
        try:
            async with asyncio.timeout(seconds):
                await what()
        except _FAILURES as error:
            trouble = str(error) or "no answer in time"
            if trouble != self._trouble:
                logger.warning("the Lease %s cannot be read or written, retrying: %s", self._place, trouble)
            self._trouble = trouble
        else:
            self._trouble = ""

    async def _step(self) -> None:
        found = await self._cluster.get("Lease", self._namespace, self._name)
        self._check_history(found)
        self._see(look(self._sight, found, self._clock()))
        step = decide(self._sight, self._identity, self._clock(), leads=self._leads)
        if step is Step.END:
            self._leadership.end()
            holder = self._sight.claim.holder if self._sight else ""
            raise LeadershipLostError(f"{holder} holds the Lease {self._place} now; this process ends")
        if step is Step.TAKE and (self._leads or await self._may_begin()):
            await self._take(found)

    def _check_history(self, found: Body | None) -> None:
        """The Lease changes every two seconds, so it tells at once that etcd was restored. Raises RewoundError."""
        if found is None:
            return
        uid, version = found["metadata"]["uid"], int(found["metadata"]["resourceVersion"])
        before = self._version if self._uid == uid else 0
        if version < before:
            self._leadership.end()
            raise RewoundError(f"the Lease {self._place}", before, version)
        self._uid, self._version = uid, version

    def _see(self, sight: Sight | None) -> None:
        if (
            sight
            and not self._leads
            and (self._sight is None or self._sight.claim.holder != sight.claim.holder)
        ):
            logger.info("standby: %s holds the Lease %s", sight.claim.holder or "nobody", self._place)
        self._sight = sight
        self._leadership.leader = sight.claim if sight else None

    async def _may_begin(self) -> bool:
        """Whether it knows everything, and no operator of a version without leader election is left."""
        if not self._warm():
            return False
        if self._predecessors is None:
            return True
        async for page in self._cluster.pages("Pod", self._namespace, self._predecessors, _RUNNING):
            if page:
                names = ", ".join(sorted(pod["metadata"]["name"] for pod in page))
                self._wait_for(f"{names} runs an operator that knows no leader election")
                return False
        return True

    def _wait_for(self, why: str) -> None:
        if not self._waits:
            logger.warning("waiting before leading: %s; delete it if it does not end", why)
        self._waits = True

    async def _take(self, found: Body | None) -> None:
        sent = self._clock()
        bare = {"metadata": {"namespace": self._namespace, "name": self._name}}
        wanted = held(found or bare, self._identity, self._address, datetime.now(UTC))
        try:
            write = self._cluster.replace if found else self._cluster.create
            written = await write("Lease", wanted)
        except (ConflictError, AlreadyExistsError):
            return  # the next look tells who was faster
        self._leadership.lead(sent + RENEW_SECONDS)
        if not self._leads:
            logger.info("leader: %s holds the Lease %s", self._identity, self._place)
        self._leads = True
        self._see(Sight(Claim.of(written), sent))

    async def _leave(self) -> None:
        found = await self._cluster.get("Lease", self._namespace, self._name)
        if found and Claim.of(found).holder == self._identity:
            await self._cluster.replace("Lease", released(found, datetime.now(UTC)))
            logger.info("released the Lease %s", self._place)

    def _pause(self) -> float:
        """Renewals come every two seconds; a standby is there when the holder's time is over."""
        left = self._leadership.left if self._leads else self._until_free()
        return max(_SHORTEST_PAUSE, min(jitter(RETRY_SECONDS), left))

    def _until_free(self) -> float:
        if self._sight is None or not self._warm():
            return RETRY_SECONDS / 4
        left = self._sight.expires - self._clock()
        return left if left > 0 else RETRY_SECONDS


def _address(settings: OperatorSettings) -> str | None:
    """Host and port of this process's progress port."""
    if settings.address is None or not settings.progress_url or not settings.progress_port:
        return None
    host = f"[{settings.address}]" if ":" in settings.address else settings.address
    return f"{host}:{settings.progress_port}"
