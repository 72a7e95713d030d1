"""The progress port: TLS connections, limited in number, by address and in time.

Any pod may connect, and asyncio's TLS buffers take 0.3 MiB for a connection that has sent nothing yet. So a connection
is counted from its first packet on: those of an address with `per_address` open ones are closed at once, and each is
closed after `seconds`, whether its request is complete or not. Where `total` are open, a further one takes the place of
the oldest one of the address that has most, so that a few addresses keep out no other; the kernel queues it where each
address has one only. Failed connections, whose request is refused or never complete, are limited for each address
to `failures` at once and `failures_per_second` later on; the others are closed before their handshake.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from finetune_operator.failure_limit import FailureLimit

logger = logging.getLogger(__name__)

_BACKLOG = 1024
_PAUSE_AFTER_ERROR = 1.0
_REFUSED_AT_ONCE = 64
"""Refusals, of 50 microseconds each, between two turns of all other tasks."""


@dataclass(frozen=True)
class Limits:
    """Connection limits of the port. A trainer opens a connection for every report, for some milliseconds."""

    total: int = 200
    per_address: int = 20
    handshake_seconds: float = 5.0
    seconds: float = 15.0
    failures: int = 40
    failures_per_second: float = 2.0


class _Watched(asyncio.Protocol):
    """A protocol of aiohttp's, and whether its connection is closed."""

    def __init__(self, inner: asyncio.Protocol) -> None:
        self._inner, self.closed = inner, asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)
        self.closed.set()


class _Listener:
    """Accepts connections, and gives those within the limits to `factory`'s protocols."""

    def __init__(
        self,
        listening: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext,
        limits: Limits,
        failure_limit: FailureLimit,
        on_refused: Callable[[], None],
    ) -> None:
        self._socket, self._factory, self._tls, self._limits = listening, factory, tls, limits
        self._failure_limit, self._on_refused = failure_limit, on_refused
        self._free = asyncio.Semaphore(limits.total)
        self._open: dict[str, list[asyncio.Task[None]]] = {}
        """The connections of each address, the oldest first."""

    async def accept(self) -> None:
        """Until cancelled."""
        refused = 0
        try:
            while True:
                if refused % _REFUSED_AT_ONCE == 0:
                    await asyncio.sleep(0)  # else a queue of connections would leave no time to anything else
                connection, address = await self._accepted()
                if not self._may_open(address):
                    connection.close()
                    self._on_refused()
                    refused += 1
                    continue
                refused = 0
                if self._free.locked():
                    self._close_one()
                await self._free.acquire()
                self._begin(connection, address)
        finally:
            for tasks in self._open.values():
                for task in tasks:
                    task.cancel()

    def _may_open(self, address: str) -> bool:
        return len(self._open.get(address, ())) < self._limits.per_address and self._failure_limit.take(
            address
        )

    def _close_one(self) -> None:
        """Close the oldest connection of the address with most of them, unless none has more than one."""
        busiest = max(self._open.values(), key=len)
        if len(busiest) > 1:
            busiest[0].cancel()
            self._on_refused()

    async def _accepted(self) -> tuple[socket.socket, str]:
        while True:
            try:
                connection, address = await asyncio.get_running_loop().sock_accept(self._socket)
            except OSError as error:  # too many open files, or the connection is gone already
                logger.warning("a connection to the progress port was not accepted: %s", error)
                await asyncio.sleep(_PAUSE_AFTER_ERROR)
            else:
                return connection, str(address[0])

    def _begin(self, connection: socket.socket, address: str) -> None:
        task = asyncio.create_task(self._serve(connection))
        self._open.setdefault(address, []).append(task)

        def end(ended: "asyncio.Task[None]") -> None:
            connection.close()  # of one that gave way before it began
            self._open[address].remove(ended)
            if not self._open[address]:
                del self._open[address]
            self._free.release()

        task.add_done_callback(end)

    async def _serve(self, connection: socket.socket) -> None:
        """A connection from its handshake to its end."""
        transport: asyncio.Transport | None = None
        try:
            with contextlib.suppress(
                OSError
            ):  # a broken handshake, or one that takes too long, is the client's fault
                async with asyncio.timeout(self._limits.seconds):
                    transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(
                        lambda: _Watched(self._factory()),
                        connection,
                        ssl=self._tls,
                        ssl_handshake_timeout=self._limits.handshake_seconds,
                    )
                    await protocol.closed.wait()
        finally:
            if transport:
                transport.abort()


@asynccontextmanager
async def serving_strangers(
    app: web.Application,
    port: int,
    tls: ssl.SSLContext,
    on_refused: Callable[[], None],
    limits: Limits = Limits(),
    is_replica: Callable[[web.Request], bool] = lambda _: False,
) -> AsyncIterator[None]:
    """Serve over TLS while the context lasts, one request a connection.

    What a replica hands on, which `is_replica` recognizes, never counts as failed: it has limited its clients itself.
    """
    failure_limit = FailureLimit(limits.failures, limits.failures_per_second)

    async def count(request: web.Request, response: web.StreamResponse) -> None:
        response.force_close()
        if request.remote and (not 400 <= response.status < 500 or is_replica(request)):
            failure_limit.give_back(request.remote)

    app.on_response_prepare.append(count)
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,
        shutdown_timeout=1,
        handler_cancellation=True,  # else requests of closed connections would go on, in any number
    )
    await runner.setup()
    assert runner.server
    with _listening(port) as listening:
        listener = _Listener(listening, runner.server, tls, limits, failure_limit, on_refused)
        accepting = asyncio.create_task(listener.accept())
        try:
            yield
        finally:
            accepting.cancel()
            await asyncio.wait({accepting})
            await runner.cleanup()


def _listening(port: int) -> socket.socket:
    """On all addresses, IPv6 where there is any."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    listening = socket.create_server(("", port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    listening.setblocking(False)
    return listening
