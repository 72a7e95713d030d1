"""The only file with Kopf's decorators. Handlers only update the cache and enqueue the key; they never raise or wait.

Kopf gives discovery, login, watch streams and life cycle. Of its handlers only `on.event` is used: the others keep
state in annotations and finalizers, and this operator is level-triggered (see docs/architecture.md).
"""

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from json import JSONDecodeError
from typing import Any

import kopf
from kopf._cogs.clients.errors import APIError
from kopf._cogs.clients.watching import WatchingError

from finetune_api import GROUP, PLURAL, VERSION
from finetune_core.backoff import backoff, jitter
from finetune_core.plan.naming import SELECTOR
from finetune_operator.cache import Cache, Key, has_ended, parent_key
from finetune_operator.cluster import PAGE, Cluster, Credentials
from finetune_operator.storages import NoDiffBase, NoProgress
from finetune_operator.watches import Watches
from finetune_operator.workqueue import WorkQueue

Body = dict[str, Any]

WATCH_REFUSED = (APIError, WatchingError, JSONDecodeError, UnicodeDecodeError)
"""What ends Kopf when the API server refuses a watch: 404 without the CRD, 410, 400. Kopf retries the others itself.

So does an event that is no JSON, as where a load balancer writes its own page into the stream.
"""

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

    def changed(kind: str, event: kopf.RawEvent) -> None:
        watches.event(kind)
        for key in update(cache, kind, str(event["type"]), dict(event["object"])):
            queue.add(key)

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return _connection(await cluster.credentials())

    @kopf.on.cleanup(registry=handlers)
    async def stop(**_: Any) -> None:
        on_stop()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def finetunejob_changed(event: kopf.RawEvent, **_: Any) -> None:
        changed("FineTuneJob", event)

    @kopf.on.event("batch", "v1", "jobs", registry=handlers)
    async def job_changed(event: kopf.RawEvent, **_: Any) -> None:
        changed("Job", event)

    @kopf.on.event("", "v1", "pods", registry=handlers)
    async def pod_changed(event: kopf.RawEvent, **_: Any) -> None:
        changed("Pod", event)

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


def update(cache: Cache, kind: str, event: str, body: Body) -> list[Key]:
    """Bring the cache up to date with an event of a watch; returns the keys to reconcile."""
    if kind == "FineTuneJob":
        keys = [_update_finetunejob(cache, event, body), parent_key(body)]
        if event == "DELETED" or has_ended(body):
            keys.append(cache.first_for_output_of(body))
    elif event == "DELETED":
        keys = [cache.drop_child(kind, body)]
    else:
        keys = [cache.put_child(kind, body)]
    return [key for key in keys if key is not None]


def _update_finetunejob(cache: Cache, event: str, body: Body) -> Key | None:
    if event == "DELETED":
        return cache.drop_finetunejob(body)
    return None if cache.settled(body) else cache.put_finetunejob(body)


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
