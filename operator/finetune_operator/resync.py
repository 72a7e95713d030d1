"""The first LIST, and then a full comparison from time to time.

Kopf reports no deletion that happened while a watch was broken, so our own LIST makes up for it. No job is touched
before the first one of its namespace is in; a namespace that cannot be listed does not stop the others.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field

from finetune_operator.backoff import jitter
from finetune_operator.cache import Cache, uid_of
from finetune_operator.cluster import Cluster
from finetune_operator.errors import ApiError
from finetune_operator.plan.naming import SELECTOR
from finetune_operator.settings import OperatorSettings
from finetune_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

Scope = str | None
"""A namespace, or None for all."""

_FORBIDDEN = 403
_SOON = 60.0
_RETRY_UNSERVED = 10.0


@dataclass
class Resync:
    """Compares the cache with the API server."""

    cluster: Cluster
    cache: Cache
    queue: WorkQueue
    settings: OperatorSettings
    last: float | None = field(default=None, init=False)

    async def once(self) -> None:
        """LIST all kinds, one after the other, and enqueue every FineTuneJob."""
        for scope in self.settings.namespaces or (None,):
            await self._compare_or_note(scope)
        if self._served():
            self.last = time.monotonic()
            logger.info("compared with the API server: %d FineTuneJobs", len(self.cache.finetunejobs))

    async def repeat(self) -> None:
        """Compare again and again until cancelled.

        Soon after the start, for what was deleted while Kopf took its own first LIST; a namespace that is not served
        is tried more often.
        """
        due = time.monotonic() + jitter(min(_SOON, self.settings.resync_interval))
        while True:
            pause = due - time.monotonic()
            await asyncio.sleep(min(pause, jitter(_RETRY_UNSERVED)) if self.cache.unserved else pause)
            try:
                if time.monotonic() < due:
                    for scope in list(self.cache.unserved):
                        await self._compare_or_note(scope)
                else:
                    due = time.monotonic() + jitter(self.settings.resync_interval)
                    await self.once()
            except Exception:
                logger.exception("the comparison with the API server failed; retrying at the next interval")

    async def _compare_or_note(self, scope: Scope) -> None:
        """Compare a scope. That a namespace is gone or closed to the operator is noted and no error."""
        try:
            await self._compare(scope)
        except ApiError as error:
            if scope is None or error.status != _FORBIDDEN:
                raise
            if scope not in self.cache.unserved:
                logger.warning(
                    "namespace %s is not served: %s; create it with the operator's Role, or remove it from"
                    " rbac.namespaces",
                    scope,
                    error,
                )
            self.cache.unserved[scope] = str(error)
            return
        if scope and self.cache.unserved.pop(scope, None):
            logger.info("namespace %s is served", scope)

    async def _compare(self, scope: Scope) -> None:
        for kind in (
            "Pod",
            "Job",
        ):  # children first: without them a running job would look like one that lost its Job
            before = self.cache.uids_in(scope, kind)
            async for page in self.cluster.pages(kind, scope, SELECTOR):
                for body in page:
                    self.cache.put_child(kind, body)
                before -= {uid_of(body) for body in page}
            self.cache.drop_unlisted_children(kind, before)
        known = self.cache.keys_in(scope)
        async for page in self.cluster.pages("FineTuneJob", scope):
            known -= {self.cache.put_finetunejob(body) for body in page}
        self.cache.drop_unlisted(known)
        for key in self.cache.keys_in(scope):
            self.queue.add(key)

    def _served(self) -> bool:
        return not self.settings.namespaces or any(
            namespace not in self.cache.unserved for namespace in self.settings.namespaces
        )

    def readiness(self) -> tuple[bool, str]:
        """Whether the operator serves anything, and what is missing."""
        unserved = "".join(
            f"; namespace {name} is not served: {why}" for name, why in self.cache.unserved.items()
        )
        if self.last is None:
            return False, f"the first LIST is not in yet{unserved}"
        if not self._served():
            return False, f"no namespace is served{unserved}"
        if time.monotonic() - self.last > 2.2 * self.settings.resync_interval:
            return False, f"the last comparison with the API server is too long ago{unserved}"
        return True, f"ok{unserved}"
