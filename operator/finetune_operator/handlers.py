"""The only file with Kopf's decorators. Handlers only update the cache and enqueue the key; they never raise or wait.

Kopf gives discovery, login, watch streams and life cycle. Of its handlers only `on.event` is used: the others keep
state in annotations and finalizers, and this operator is level-triggered (see docs/architecture.md).
"""

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import kopf
from kopf._cogs.clients.errors import APIError
from kopf._cogs.clients.watching import WatchingError

from finetune_api import GROUP, PLURAL, VERSION
from finetune_core.backoff import backoff, jitter
from finetune_core.plan.naming import SELECTOR
from finetune_operator.cache import Cache, Key, parent_key
from finetune_operator.cluster import PAGE, Cluster, Credentials
from finetune_operator.storages import NoDiffBase, NoProgress
from finetune_operator.watches import Watches
from finetune_operator.workqueue import WorkQueue

WATCH_REFUSED = (APIError, WatchingError)
"""What ends Kopf when the API server refuses a watch: 404 without the CRD, 410, 400. Kopf retries the others itself."""

_LOGIN_LASTS = timedelta(minutes=10)
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 25.0


def log_filter(record: logging.LogRecord) -> bool:
    """Drop Kopf's tracebacks of refused watches, which the operator reports in one line."""
    refused = record.exc_info and isinstance(record.exc_info[1], WATCH_REFUSED)
    return not (refused and record.name.startswith("kopf."))


class EndlessBackoff:
    """Kopf's pauses between tries: growing, with jitter, without an end, so that only a bug ends the process."""

    def __iter__(self) -> Iterator[float]:
        return (jitter(backoff(tries, _FIRST_PAUSE, _LONGEST_PAUSE)) for tries in count(1))


def registry(
    cache: Cache, queue: WorkQueue, cluster: Cluster, watches: Watches, on_stop: Callable[[], object]
) -> kopf.OperatorRegistry:
    """Handlers that feed this cache and this queue, and log in as `cluster` does.

    `on_stop` ends our own tasks when Kopf begins to stop: it would wait five seconds for them.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return _connection(await cluster.credentials())

    @kopf.on.cleanup(registry=handlers)
    async def stop(**_: Any) -> None:
        on_stop()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def finetunejob_changed(event: kopf.RawEvent, **_: Any) -> None:
        watches.event("FineTuneJob")
        body = dict(event["object"])
        if event["type"] == "DELETED":
            queue.add(cache.drop_finetunejob(body))
        elif not cache.settled(body):
            queue.add(cache.put_finetunejob(body))
        _enqueue(queue, parent_key(body))

    @kopf.on.event("batch", "v1", "jobs", registry=handlers)
    async def job_changed(event: kopf.RawEvent, **_: Any) -> None:
        watches.event("Job")
        _enqueue(queue, _update(cache, "Job", event))

    @kopf.on.event("", "v1", "pods", registry=handlers)
    async def pod_changed(event: kopf.RawEvent, **_: Any) -> None:
        watches.event("Pod")
        _enqueue(queue, _update(cache, "Pod", event))

    return handlers


def _connection(found: Credentials) -> kopf.ConnectionInfo:
    scheme, _, token = (found.authorization or "").partition(" ")
    return kopf.ConnectionInfo(
        server=found.server,
        ca_path=found.ca_path,
        insecure=found.insecure or None,
        certificate_path=found.certificate_path,
        private_key_path=found.key_path,
        scheme=scheme or None,
        token=token or None,
        expiration=datetime.now(UTC) + _LOGIN_LASTS,
    )


def _update(cache: Cache, kind: str, event: kopf.RawEvent) -> Key | None:
    body = dict(event["object"])
    return cache.drop_child(kind, body) if event["type"] == "DELETED" else cache.put_child(kind, body)


def _enqueue(queue: WorkQueue, key: Key | None) -> None:
    if key is not None:
        queue.add(key)


def kopf_settings() -> kopf.OperatorSettings:
    """Kopf's settings; the numbers are explained in docs/architecture.md."""
    configured = kopf.OperatorSettings()
    configured.posting.enabled = False
    configured.scanning.disabled = True
    configured.peering.standalone = True
    configured.persistence.diffbase_storage = NoDiffBase()
    configured.persistence.progress_storage = NoProgress()
    configured.watching.server_timeout = 600
    configured.watching.inactivity_timeout = 70
    configured.watching.chunk_size = PAGE
    configured.watching.label_selectors["batch", "v1", "jobs"] = SELECTOR
    configured.watching.label_selectors["", "v1", "pods"] = SELECTOR
    configured.process.ultimate_exiting_timeout = None  # else SIGKILL ten minutes after Kopf ends
    configured.networking.request_timeout = 30
    configured.networking.connect_timeout = 5
    configured.networking.error_backoffs = EndlessBackoff()
    configured.queueing.worker_limit = 200
    configured.queueing.idle_timeout = 0.05
    return configured
