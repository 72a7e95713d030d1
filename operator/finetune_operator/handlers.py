"""The only file with Kopf's decorators. A handler notes what it is told and asks for a visit; it never raises or waits.

Kopf gives discovery, login, watch streams and life cycle. Of its handlers only `on.event` is used: the others keep
state in annotations and finalizers, and this operator is level-triggered (see docs/architecture.md).
"""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf

from finetune_api import GROUP, PLURAL, VERSION
from finetune_operator.cache import Cache, JobKey
from finetune_operator.cluster import Cluster, Credentials
from finetune_operator.plan.naming import SELECTOR
from finetune_operator.settings import OperatorSettings
from finetune_operator.workqueue import WorkQueue

_LOGIN_AGAIN = timedelta(minutes=10)


class _EndlessPauses:
    """Kopf's pauses between tries: growing, with jitter, without an end, so that only a bug ends the process."""

    def __iter__(self) -> Iterator[float]:
        pause = 1.0
        while True:
            yield pause * random.uniform(0.8, 1.2)  # noqa: S311
            pause = min(pause * 2, 25.0)


def registry(
    cache: Cache, queue: WorkQueue, cluster: Cluster, on_stop: Callable[[], object]
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
    async def job_changed(event: kopf.RawEvent, **_: Any) -> None:
        body = dict(event["object"])
        queue.add(cache.drop_job(body) if event["type"] == "DELETED" else cache.put_job(body))

    @kopf.on.event("batch", "v1", "jobs", registry=handlers)
    async def child_changed(event: kopf.RawEvent, **_: Any) -> None:
        _add(queue, _note(cache, "Job", event))

    @kopf.on.event("", "v1", "pods", registry=handlers)
    async def pod_changed(event: kopf.RawEvent, **_: Any) -> None:
        _add(queue, _note(cache, "Pod", event))

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
        expiration=datetime.now(UTC) + _LOGIN_AGAIN,
    )


def _note(cache: Cache, kind: str, event: kopf.RawEvent) -> JobKey | None:
    body = dict(event["object"])
    return cache.drop_child(kind, body) if event["type"] == "DELETED" else cache.put_child(kind, body)


def _add(queue: WorkQueue, key: JobKey | None) -> None:
    if key is not None:
        queue.add(key)


def kopf_settings(settings: OperatorSettings) -> kopf.OperatorSettings:
    """Kopf's settings; the numbers are explained in docs/architecture.md."""
    configured = kopf.OperatorSettings()
    configured.posting.enabled = False
    configured.scanning.disabled = True
    configured.peering.standalone = True
    configured.watching.server_timeout = 600
    configured.watching.inactivity_timeout = 70
    configured.watching.chunk_size = 500
    configured.watching.label_selectors["batch", "v1", "jobs"] = SELECTOR
    configured.watching.label_selectors["", "v1", "pods"] = SELECTOR
    configured.networking.request_timeout = 30
    configured.networking.connect_timeout = 5
    configured.networking.error_backoffs = _EndlessPauses()
    configured.queueing.worker_limit = 200
    configured.queueing.idle_timeout = 0.2
    return configured
