"""The progress port among strangers: real sockets, to a server of our own and to a process whose memory is measured."""

import asyncio
import contextlib
import os
import re
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from aiohttp import ClientConnectionError, ClientSession, TCPConnector, web

from finetune_operator.certificate import make
from finetune_operator.listener import Limits, serving_strangers
from finetune_operator.tls import server_context
from ports import free_port

CERTIFICATE = make("localhost")
CHART_LIMIT_MIB = 512
SHORT = Limits(total=8, per_address=4, handshake_seconds=0.5, seconds=1.0)
LONG = Limits(total=8, per_address=4, handshake_seconds=60, seconds=120)
PATIENCE = 60
"""Seconds in which what is closed at once, or after a SHORT time, is closed; the machine may be busy."""


@dataclass
class Port:
    """A running port and what it counted."""

    number: int
    refused: list[int] = field(default_factory=list)
    clients: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def connect(
        self, source: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which nothing is sent yet."""
        name = "localhost" if tls else None
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.number, local_addr=(source, 0), ssl=tls, server_hostname=name
        )
        self.clients.push_async_callback(_close, writer)
        return reader, writer

    async def post(self, body: bytes = b"{}", source: str = "127.0.0.1", **headers: str) -> bytes:
        """A whole request, as a trainer sends it."""
        connector = TCPConnector(ssl=trusting(), local_addr=(source, 0))
        async with ClientSession(connector=connector) as session:
            url = f"https://localhost:{self.number}/"
            async with session.post(url, data=body, headers=headers) as answer:
                assert answer.status == 200
                return await answer.read()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=CERTIFICATE.authority)


@asynccontextmanager
async def port_with(limits: Limits) -> AsyncIterator[Port]:
    """Its answer has the status that a request asks for; 200 if it asks for none."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), status=int(request.headers.get("X-Status", "200")))

    app = web.Application()
    app.router.add_post("/", answer)
    port = Port(free_port())
    tls = server_context(CERTIFICATE)
    serving = serving_strangers(
        app,
        port.number,
        tls,
        lambda: port.refused.append(1),
        limits,
        is_replica=lambda request: request.headers.get("X-Replica") == "yes",
    )
    async with serving, port.clients:
        yield port


async def closes_within(seconds: float, reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(seconds):
            with contextlib.suppress(OSError):
                await reader.read()
    except TimeoutError:
        return False
    return True


async def test_a_request_is_answered_and_its_connection_closed() -> None:
    async with port_with(LONG) as port:
        for number in range(3 * LONG.total):
            assert await port.post(str(number).encode()) == str(number).encode()
        assert port.refused == []


async def test_a_connection_that_sends_nothing_is_closed_after_the_time_for_a_handshake() -> None:
    async with port_with(SHORT) as port:
        reader, _ = await port.connect()
        assert await closes_within(PATIENCE, reader)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
    ],
    ids=["nothing", "half a header", "half a body", "an endless body"],
)
async def test_a_request_that_does_not_end_is_closed_after_its_time(sent: bytes) -> None:
    async with port_with(replace(SHORT, handshake_seconds=60)) as port:
        reader, writer = await port.connect(tls=trusting())
        writer.write(sent)
        assert await closes_within(PATIENCE, reader)
        assert await port.post() == b"{}"


async def test_a_byte_now_and_then_does_not_buy_more_time() -> None:
    async with port_with(replace(SHORT, handshake_seconds=60)) as port:
        reader, writer = await port.connect(tls=trusting())
        writer.write(b"POST / HTTP/1.1\r\n")

        async def drip() -> None:
            while True:
                writer.write(b"X-A: b\r\n")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert await closes_within(PATIENCE, reader)
        dripping.cancel()


async def test_an_address_with_too_many_connections_is_refused_at_once_and_others_are_served() -> None:
    async with port_with(LONG) as port:
        held = [reader for reader, _ in [await port.connect() for _ in range(4)]]
        fifth, _ = await port.connect()
        assert await closes_within(PATIENCE, fifth)
        assert port.refused == [1]
        assert not any([await closes_within(0.01, one) for one in held])
        assert await port.post(source="127.0.0.2") == b"{}"


async def test_beyond_the_total_the_oldest_connection_of_the_busiest_address_gives_way() -> None:
    async with port_with(replace(LONG, per_address=5)) as port:
        few = [await port.connect("127.0.0.2") for _ in range(3)]
        many = [await port.connect("127.0.0.3") for _ in range(5)]
        assert await port.post() == b"{}"
        assert await closes_within(PATIENCE, many[0][0])
        assert port.refused == [1]
        assert not any([await closes_within(0.01, one) for one, _ in few + many[1:]])


async def test_beyond_the_total_a_request_waits_where_every_address_has_one_connection() -> None:
    async with port_with(SHORT) as port:
        for number in range(2, 10):
            await port.connect(f"127.0.0.{number}")
        assert await port.post() == b"{}"
        assert port.refused == []


async def test_slow_requests_of_many_addresses_keep_out_no_other() -> None:
    """Each time as many as the port takes, and none of them ends by itself."""
    async with port_with(LONG) as port:
        for number in range(20):
            for _ in range(LONG.total):
                _, writer = await port.connect(f"127.0.1.{number % 4 + 1}")
                writer.write(b"\x16")
            assert await port.post() == b"{}"


FEW_FAILURES = Limits(total=8, per_address=4, failures=3, failures_per_second=0.0)


async def refused_with(port: Port, status: int, **headers: str) -> None:
    with contextlib.suppress(AssertionError):
        await port.post(**{"X-Status": str(status)}, **headers)


@pytest.mark.parametrize(
    "sent", [b"no handshake", b"\x16", b""], ids=["plain text", "half a handshake", "nothing"]
)
async def test_connections_that_come_to_nothing_are_limited_for_their_address_and_for_no_other(
    sent: bytes,
) -> None:
    async with port_with(FEW_FAILURES) as port:
        for _ in range(3):
            _, writer = await port.connect()
            writer.write(sent)
            writer.transport.abort() if sent != b"no handshake" else None
        fourth, _ = await port.connect(tls=None)
        assert await closes_within(60, fourth)
        assert port.refused == [1]
        assert await port.post(source="127.0.0.2") == b"{}"


async def test_requests_that_are_refused_are_limited_and_served_ones_are_not() -> None:
    async with port_with(FEW_FAILURES) as port:
        for _ in range(8):
            assert await port.post() == b"{}"
            await refused_with(port, 503)
        for status in (401, 403, 429):
            await refused_with(port, status)
        with pytest.raises(ClientConnectionError):
            await port.post()
        assert await port.post(source="127.0.0.2") == b"{}"


async def test_what_a_replica_hands_on_is_not_limited() -> None:
    async with port_with(FEW_FAILURES) as port:
        for _ in range(8):
            await refused_with(port, 401, **{"X-Replica": "yes"})
        assert await port.post() == b"{}"


async def test_the_request_of_a_closed_connection_ends_with_it() -> None:
    """Else those that wait for a review would be more than there are connections."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    app, number = web.Application(), free_port()
    app.router.add_post("/", wait)
    async with serving_strangers(app, number, server_context(CERTIFICATE), lambda: None, LONG):
        _, writer = await asyncio.open_connection("localhost", number, ssl=trusting())
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
            writer.transport.abort()
            await ended.wait()


async def test_a_compressed_body_is_not_unpacked() -> None:
    async with port_with(LONG) as port:
        bomb = b"\x1f\x8b not unpacked"
        assert await port.post(bomb, **{"Content-Encoding": "gzip"}) == bomb


@pytest.fixture
def process() -> Iterator[tuple[int, int]]:
    """A server in another process; its pid and port."""
    tests = Path(__file__).parents[2]
    paths = [str(tests), *(path for path in sys.path if path)]
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("flooded_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(paths)},
    ) as server:
        assert server.stdout
        yield server.pid, int(server.stdout.readline())
        server.kill()


def peak_mib(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


@pytest.mark.parametrize("addresses", [1, 100], ids=["one address", "a hundred addresses"])
def test_thousands_of_half_open_connections_stay_far_below_the_memory_of_the_chart(
    process: tuple[int, int], addresses: int
) -> None:
    pid, port = process
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    before = peak_mib(pid)
    held = []
    for number in range(3000):
        one = socket.socket()
        one.bind((f"127.1.0.{number % addresses + 1}", 0))
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
        held.append(one)
    time.sleep(3)
    grown = peak_mib(pid) - before
    for one in held:
        one.close()
    assert grown < 0.2 * CHART_LIMIT_MIB
