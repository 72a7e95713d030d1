"""The first LIST, and then a full comparison from time to time.

Kopf reports no deletion that happened while a watch was broken, so our own LIST makes up for it. No job is touched
before the first one of its namespace is in; a namespace that cannot be listed does not stop the others. Without the
CRD there is nothing to compare: that is logged once, and the operator waits for it.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field

from aiohttp import ClientError

from finetune_api import GROUP, PLURAL
from finetune_core.backoff import jitter
from finetune_core.plan.naming import SELECTOR
from finetune_core.settings import OperatorSettings
from finetune_operator.cache import Cache, uid_of
from finetune_operator.cluster import PATHS, Cluster
from finetune_operator.errors import ApiError, RewoundError
from finetune_operator.watches import KINDS
from finetune_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

Scope = str | None
"""A namespace, or None for all."""

CRD = f"{PLURAL}.{GROUP}"
FAILURES = (ApiError, ClientError, TimeoutError)
"""What a request to the API server raises."""

_LOST = (403, 404)
"""Codes by which a namespace is gone or closed to the operator. Others pass."""
_SOON = 60.0
_RETRY = 10.0


@dataclass
class Resync:
    """Compares the cache with the API server.

    `_behind` has the namespaces whose last comparison failed. They are tried more often than the others.
    """

    cluster: Cluster
    cache: Cache
    queue: WorkQueue
    settings: OperatorSettings
    last: float | None = field(default=None, init=False)
    _defined: bool = field(default=True, init=False)
    _compared: set[str] = field(default_factory=set, init=False)
    _behind: set[str] = field(default_factory=set, init=False)

    async def begin(self) -> None:
        """The comparison before the first watch; waits for the CRD if it is missing.

        Raises what the API server refuses when the process starts, such as rights; what may pass is tried again.
        """
        while True:
            try:
                if await self.once():
                    return
            except FAILURES as error:
                if self.last is None and not passes(error):
                    raise
                _log_failure(error)
            await asyncio.sleep(jitter(_RETRY))

    async def once(self) -> bool:
        """LIST all kinds, one after the other, and enqueue every FineTuneJob; False if the CRD is missing."""
        if not await self._is_defined():
            return False
        for scope in self.settings.namespaces or (None,):
            await self._compare_or_note(scope)
        if self._served():
            self.last = time.monotonic()
            logger.info("compared with the API server: %d FineTuneJobs", len(self.cache.finetunejobs))
        return True

    async def repeat(self) -> None:
        """Compare again and again until cancelled.

        Soon after the start, for what was deleted while Kopf took its own first LIST; soon after a failure, too.
        """
        due = time.monotonic() + jitter(min(_SOON, self.settings.resync_interval))
        while True:
            pause = due - time.monotonic()
            await asyncio.sleep(min(pause, jitter(_RETRY)) if self._behind else pause)
            try:
                if time.monotonic() < due:
                    for scope in list(self._behind):
                        await self._compare_or_note(scope)
                else:
                    due = time.monotonic() + jitter(self.settings.resync_interval)
                    await self.once()
            except RewoundError:
                raise
            except FAILURES as error:
                _log_failure(error)
                due = min(due, time.monotonic() + jitter(_RETRY))
            except Exception:
                logger.exception("the comparison with the API server failed; retrying at the next interval")

    async def _is_defined(self) -> bool:
        """Whether the API server serves FineTuneJobs; each change is logged once.

        Kopf watches only what it finds in the API server's discovery, so this asks discovery too.
        """
        defined = await self.cluster.serves_finetunejobs()
        if self._defined and not defined:
            logger.error(
                "the CustomResourceDefinition %s is not installed: no FineTuneJob is served until it is; install it"
                " with the chart, or with kubectl apply --server-side -f crds/",
                CRD,
            )
        elif defined and not self._defined:
            logger.warning("the CustomResourceDefinition %s is installed: FineTuneJobs are served", CRD)
        self._defined = defined
        return defined

    async def _compare_or_note(self, scope: Scope) -> None:
        """Compare a scope. A namespace that cannot be compared is noted, and does not stop the others."""
        try:
            await self._compare(scope)
        except FAILURES as error:
            if scope is None:
                raise
            self._note(scope, error)
            return
        if scope is None:
            return
        self._compared.add(scope)
        self._behind.discard(scope)
        if self.cache.unserved.pop(scope, None):
            logger.info("namespace %s is served", scope)

    def _note(self, namespace: str, error: Exception) -> None:
        """Jobs of a namespace that is lost, or was never listed, are left alone; others go on."""
        self._behind.add(namespace)
        lost = isinstance(error, ApiError) and error.status in _LOST
        if namespace in self._compared and not lost:
            logger.warning(
                "namespace %s could not be compared with the API server, retrying: %s",
                namespace,
                _text_of(error),
            )
            return
        if namespace not in self.cache.unserved:
            remedy = "; create it with the operator's Role, or remove it from rbac.namespaces" if lost else ""
            logger.warning("namespace %s is not served, retrying: %s%s", namespace, _text_of(error), remedy)
        self.cache.unserved[namespace] = _text_of(error)

    async def _check_history(self, scope: Scope) -> None:
        """Raises RewoundError if what is known is newer than what the API server has."""
        for kind in KINDS:
            # asked before the API server is, because a watch may bring newer objects meanwhile
            before = self.cache.newest(kind, scope)
            now = await self.cluster.version(kind, scope, "" if kind == "FineTuneJob" else SELECTOR)
            if before > now:
                raise RewoundError(PATHS[kind][1], before, now)

    async def _compare(self, scope: Scope) -> None:
        await self._check_history(scope)
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
        if not self._defined:
            return False, f"the CustomResourceDefinition {CRD} is not installed"
        if self.last is None:
            return False, f"the first LIST is not in yet{unserved}"
        if not self._served():
            return False, f"no namespace is served{unserved}"
        if time.monotonic() - self.last > 2.2 * self.settings.resync_interval:
            return False, f"the last comparison with the API server is too long ago{unserved}"
        return True, f"ok{unserved}"


def passes(error: Exception) -> bool:
    """Whether a failure at the start may pass by itself: an API server that is away, busy, or lacks the CRD."""
    return not isinstance(error, ApiError) or error.status in (404, 429) or error.status >= 500


def _text_of(error: Exception) -> str:
    """The error's message; some have none."""
    return str(error) or repr(error)


def _log_failure(error: Exception) -> None:
    logger.warning("the comparison with the API server failed, retrying: %s", _text_of(error))
