"""The first LIST, and then a full comparison from time to time.

Kopf reports no deletion that happened while a watch was broken, so our own LIST makes up for it. No job is touched
before the first one is in.
"""

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field

from finetune_operator.cache import Cache
from finetune_operator.cluster import Cluster
from finetune_operator.plan.naming import SELECTOR
from finetune_operator.settings import OperatorSettings
from finetune_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)


@dataclass
class Resync:
    """Compares the cache with the API server."""

    cluster: Cluster
    cache: Cache
    queue: WorkQueue
    settings: OperatorSettings
    last: float | None = field(default=None, init=False)

    async def once(self) -> None:
        """LIST all kinds, children first, and enqueue every FineTuneJob."""
        for kind in ("Pod", "Job"):
            before = self.cache.uids(kind)
            bodies = [
                body
                for scope in self._scopes()
                for body in await self.cluster.list_all(kind, scope, SELECTOR)
            ]
            self.cache.replace_children(kind, bodies, before)
        known = set(self.cache.finetunejobs)
        jobs = [
            body for scope in self._scopes() for body in await self.cluster.list_all("FineTuneJob", scope)
        ]
        for key in self.cache.replace_finetunejobs(jobs, known):
            self.queue.add(key)
        self.last = time.monotonic()
        logger.info("compared with the API server: %d FineTuneJobs", len(jobs))

    async def repeat(self) -> None:
        """Again and again, with jitter, until cancelled."""
        while True:
            await asyncio.sleep(self.settings.resync_interval * random.uniform(0.9, 1.1))  # noqa: S311
            try:
                await self.once()
            except Exception:
                logger.exception("the comparison with the API server failed; retrying at the next interval")

    def missing(self) -> str | None:
        """What keeps the operator from being ready."""
        if self.last is None:
            return "the first LIST is not in yet"
        if time.monotonic() - self.last > 2.2 * self.settings.resync_interval:
            return "the last comparison with the API server is too long ago"
        return None

    def _scopes(self) -> list[str | None]:
        return list(self.settings.namespaces) or [None]
