"""Start the operator: `python -m finetune_operator`.

Ends with 0 on SIGTERM, and with 1 where it cannot start or does not lead any more.
"""

import asyncio
import asyncio.sslproto
import gc
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import kopf
from prometheus_client import disable_created_metrics

from finetune_core import json_reading
from finetune_core.backoff import backoff, jitter
from finetune_core.settings import OperatorSettings
from finetune_operator.cache import Cache
from finetune_operator.certificate import Certificate
from finetune_operator.children import Children
from finetune_operator.clock import SteadyClock
from finetune_operator.cluster import Cluster
from finetune_operator.errors import OperatorError, RewoundError
from finetune_operator.forwarding import Forwarding
from finetune_operator.handlers import WATCH_REFUSED, kopf_settings, log_filter, registry
from finetune_operator.inputs import Inputs
from finetune_operator.kueue import Kueue
from finetune_operator.leader import Election, Leadership
from finetune_operator.listener import serving_strangers
from finetune_operator.metrics.registry import Metrics
from finetune_operator.poster import Poster
from finetune_operator.progress import ProgressEndpoint
from finetune_operator.reconcile import Reconciler
from finetune_operator.reports import Reports
from finetune_operator.resync import FAILURES, Resync, passes
from finetune_operator.runs import Runs
from finetune_operator.searches import Pruning
from finetune_operator.server import serving, status_app
from finetune_operator.settings import load
from finetune_operator.storages import NoMemories
from finetune_operator.tls import certificate_of, server_context
from finetune_operator.warning_events import WarningEvents
from finetune_operator.watches import Watches
from finetune_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

_PAUSES = (1.0, 10.0)
_STOPPING = 10.0
_TLS_BUFFER = 64 * 1024
"""Bytes that each TLS connection has for what it reads, a quarter of asyncio's: dozens of them get short answers."""
_COLLECTIONS = (20_000, 20, 50)
"""Of garbage. By default Python looks through a large cache so often that parsing JSON takes eight times as long."""
_STABLE = 60.0
"""Seconds after which watches that end are no repeated failure."""


async def run(settings: OperatorSettings) -> None:
    """Wire the parts together and run until Kopf ends."""
    cache, reports, leadership, clock = Cache(), Reports(), Leadership(), SteadyClock()
    metrics = Metrics(cache, leads=lambda: leadership.leads)
    async with AsyncExitStack() as stack:
        cluster = await Cluster.connect(settings, metrics.request, leadership.check)
        stack.push_async_callback(cluster.close)
        own = await Cluster.connect(settings, metrics.request)  # for what belongs to no leader
        stack.push_async_callback(own.close)
        certificate = await _certificate(settings, own)
        children = Children(cluster, cache, settings, lambda: certificate.authority)
        runs = Runs(cluster, cache, children, settings)
        kueue = Kueue(cluster, settings)
        inputs, warning_events, poster = Inputs(cluster), WarningEvents(cluster), Poster(cluster)
        reconciler = Reconciler(
            cache,
            cluster,
            children,
            runs,
            reports,
            metrics,
            settings,
            inputs,
            warning_events,
            kueue,
            poster,
            clock,
        )
        queue = WorkQueue(
            reconciler,
            settings.workers,
            metrics.reconcile_failed,
            metrics.waited,
            wanted=lambda: leadership.leads,
            urgent=cache.awaits_child,
        )
        metrics.watch_queue(lambda: len(queue))
        resync, watches = Resync(cluster, cache, queue, settings), Watches()
        metrics.watch_ages(lambda: watches.ages(resync.last))

        def readiness() -> tuple[bool, str]:
            ready, text = resync.readiness()
            return ready, f"{text}; {leadership.describe()}"

        await stack.enter_async_context(serving(status_app(metrics, readiness), settings.http_port))
        if settings.progress_url and settings.progress_port:
            pruning = Pruning(cluster, cache, reports)
            endpoint = ProgressEndpoint(
                cluster, cache, reports, settings.progress_audience, queue.add, pruning.why, clock
            )
            host = urlsplit(settings.progress_url).hostname or ""
            forwarding = Forwarding(leadership, certificate, host)
            stack.push_async_callback(forwarding.close)
            await stack.enter_async_context(
                serving_strangers(
                    endpoint.app(forwarding.middleware),
                    settings.progress_port,
                    server_context(certificate),
                    metrics.connection_refused,
                    is_replica=forwarding.is_forwarded,
                )
            )
        election = _election(own, settings, leadership, resync)
        await stack.enter_async_context(_campaigning(election, leadership))
        # after the election: its last Events go before the Lease does
        await stack.enter_async_context(poster.posting(queue.calm))
        await _serve(settings, cache, queue, resync, watches, leadership)


async def _certificate(settings: OperatorSettings, own: Cluster) -> Certificate:
    """The first requests of the process: an API server that is away is waited for, as a leader ends when it goes."""
    while True:
        try:
            return await certificate_of(settings, own)
        except FAILURES as error:
            if not passes(error):
                raise
            logger.warning("the API server does not answer, trying again: %r", error)
        await asyncio.sleep(jitter(_PAUSES[0]))


def _election(
    own: Cluster, settings: OperatorSettings, leadership: Leadership, resync: Resync
) -> Election | None:
    """None without a Lease: then this process leads from the start."""
    if settings.lease is None:
        return None
    identity = settings.identity or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    return Election(own, settings, leadership, identity, warm=lambda: resync.last is not None)


@asynccontextmanager
async def _campaigning(election: Election | None, leadership: Leadership) -> AsyncIterator[None]:
    """Stand for election while the context lasts, then release the Lease. Whoever loses it ends at once."""
    if election is None:
        leadership.lead()
        yield
        return
    campaign = asyncio.create_task(election.run())
    campaign.add_done_callback(_end_the_process)
    try:
        yield
    finally:
        campaign.cancel()
        await asyncio.wait({campaign})
        await election.release()


def _end_the_process(campaign: "asyncio.Task[None]") -> None:
    """Without a moment in which a request could still be sent; the container starts again as a standby."""
    if campaign.cancelled():
        return
    error = campaign.exception()
    logger.critical("%s", error, exc_info=None if isinstance(error, OperatorError) else error)
    logging.shutdown()
    os._exit(1)


async def _serve(
    settings: OperatorSettings,
    cache: Cache,
    queue: WorkQueue,
    resync: Resync,
    watches: Watches,
    leadership: Leadership,
) -> None:
    """List, then watch and work, until SIGTERM.

    A watch that the API server refuses ends Kopf. Both are then started again, as in a new process.
    """
    failures, pause = 0, 0.0
    while await _listed(resync, pause):
        started = time.monotonic()
        try:
            await _watch_and_work(settings, cache, queue, resync, watches, leadership)
        except WATCH_REFUSED as error:
            failures = failures + 1 if time.monotonic() - started < _STABLE else 1
            pause = jitter(backoff(failures, *_PAUSES))
            logger.info("the API server refused a watch, listing and watching again: %r", error)
        else:
            return


async def _watch_and_work(
    settings: OperatorSettings,
    cache: Cache,
    queue: WorkQueue,
    resync: Resync,
    watches: Watches,
    leadership: Leadership,
) -> None:
    """Kopf starts after our own LIST: both at once would need twice the memory."""
    work = asyncio.create_task(_work(queue, resync, leadership))
    watch = asyncio.create_task(
        _watch(registry(cache, queue, resync.cluster, watches, on_stop=work.cancel), settings.namespaces)
    )
    done, _ = await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
    if work in done and not work.cancelled():
        watch.cancel()
    await asyncio.wait({watch})
    work.cancel()
    await asyncio.wait({work})
    for task in (work, watch):
        if not task.cancelled():
            task.result()


async def _watch(handlers: kopf.OperatorRegistry, namespaces: list[str]) -> None:
    """Kopf, until it ends. After a refused watch another watch may wait for credentials for ever: it is abandoned."""
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=handlers,
        settings=kopf_settings(),
        memories=NoMemories(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
    )
    running = asyncio.create_task(kopf.run_tasks(tasks, ignored=others))
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({running}, timeout=_STOPPING)
    finally:
        running.cancel()
        await asyncio.wait({running}, timeout=_STOPPING)
    for task in (*ended, running):
        if task.done() and not task.cancelled():
            task.result()


async def _listed(resync: Resync, pause: float) -> bool:
    """Whether the LIST is in, after a pause; False after SIGTERM, to which Kopf does not listen yet."""

    async def begin() -> None:
        await asyncio.sleep(pause)
        await resync.begin()

    loop, first = asyncio.get_running_loop(), asyncio.create_task(begin())
    loop.add_signal_handler(signal.SIGTERM, first.cancel)
    try:
        await asyncio.wait({first})
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        first.cancel()
    if not first.cancelled():
        first.result()
    return not first.cancelled()


async def _work(queue: WorkQueue, resync: Resync, leadership: Leadership) -> None:
    """Compare from time to time, and reconcile while this process leads."""

    async def reconcile() -> None:
        await leadership.begun()
        for key in resync.cache.keys_in(None):
            queue.add(key)
        await queue.work()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(resync.repeat())
            group.create_task(reconcile())
    except* RewoundError as group:
        rewound = group.exceptions[0]
    else:
        return
    raise rewound


def main() -> int:
    """Run the operator until SIGTERM."""
    try:
        settings = load()
        log_format = kopf.LogFormat.JSON if settings.log_format == "json" else kopf.LogFormat.FULL
        kopf.configure(log_format=log_format)
        logging.getLogger().setLevel(settings.log_level)
        for handler in logging.getLogger().handlers:
            handler.addFilter(log_filter)
        logging.getLogger("kopf").setLevel("WARNING")  # else a line for every event
        gc.freeze()  # what is imported lives as long as the process
        gc.set_threshold(*_COLLECTIONS)
        asyncio.sslproto.SSLProtocol.max_size = _TLS_BUFFER
        json_reading.install()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # else a second series for every counter
        asyncio.run(run(settings))
    except OperatorError as error:
        sys.stderr.write(f"finetune-operator: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
