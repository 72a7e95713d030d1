"""A fault proxy that follows a script: rules for requests and for the events of watches, by method, path and number."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from finetune_cluster.apiserver import ApiServer
from integration.fault_proxy import FaultProxy

Json = dict[str, Any]
Answer = Callable[["ScriptedProxy", web.Request], "Any"]
"""Answers a request in place of the API server, or beside it."""
Lines = AsyncIterator[bytes]

FOREVER = 10**9


class Cut(Exception):  # noqa: N818
    """The connection is cut."""


@dataclass
class Rule:
    """What happens to the requests whose `METHOD path` matches, or to a matching watch's events.

    It applies from the `first` match on, to as many matches as `times` says. For a watch the matches that are counted
    are events, of the object with this `name` if one is given, over all connections.
    """

    matches: str
    answer: Answer | None = None
    event: "EventFault | None" = None
    first: int = 1
    times: int = FOREVER
    name: str | None = None
    hits: int = 0
    seen: int = field(default=0, init=False)

    def applies(self) -> bool:
        """Count a match."""
        self.seen += 1
        applies = self.first <= self.seen < self.first + self.times
        self.hits += applies
        return applies


EventFault = Callable[[bytes], Lines]
"""What a client gets in place of one event of a watch; may raise Cut."""


class ScriptedProxy(FaultProxy):
    """Also knows every request that it was sent, for what an operator may ask for at all."""

    def __init__(self, server: ApiServer, folder: Path, port: int | None = None) -> None:
        self.rules: list[Rule] = []
        self.requests: list[str] = []
        self.kept: dict[str, bytes] = {}
        """An answer to each LIST by its path, for `stale`."""
        super().__init__(server, folder, port)

    def add(self, matches: str, answer: Answer | None = None, **fields: Any) -> Rule:
        """A rule from now on."""
        rule = Rule(matches, answer, **fields)
        self.rules = [*self.rules, rule]
        return rule

    def heal(self) -> None:
        """No rule holds any more."""
        self.rules = []

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        line = f"{request.method} {request.path_qs}"
        self.requests.append(line)
        for rule in self.rules:
            if rule.answer and re.search(rule.matches, line) and rule.applies():
                answer: web.StreamResponse = await rule.answer(self, request)
                return answer
        return await super()._forward(request)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        line = f"{request.method} {request.path_qs}"
        if "watch=" not in line:
            return await super()._pass_on(request)
        return await self._watch(request, line)

    async def _watch(self, request: web.Request, line: str) -> web.StreamResponse:
        url, headers = self._server.url + request.path_qs, self._headers(request)
        async with self._session.get(url, headers=headers) as answer:
            response = web.StreamResponse(status=answer.status)
            response.content_type = answer.content_type
            try:
                await response.prepare(request)
                async for event in _lines(answer.content.iter_any()):
                    async for part in self._faulty(line, event):
                        await self._uncut.wait()
                        await response.write(part)
                await response.write_eof()
            except Cut:
                abort(request)
            except aiohttp.ClientConnectionResetError:
                pass  # the operator has gone
            return response

    async def _faulty(self, line: str, event: bytes) -> Lines:
        for rule in self.rules:
            if rule.event and re.search(rule.matches, line) and _names(event, rule.name) and rule.applies():
                async for part in rule.event(event):
                    yield part
                return
        yield event

    def _headers(self, request: web.Request) -> dict[str, str]:
        return {n: request.headers[n] for n in ("Authorization", "Accept") if n in request.headers}

    async def send(self, request: web.Request) -> tuple[int, bytes]:
        """Have the API server answer, whatever becomes of the answer."""
        return await self._send(request)


async def _lines(parts: AsyncIterator[bytes]) -> Lines:
    rest = b""
    async for part in parts:
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest


def _names(event: bytes, name: str | None) -> bool:
    if name is None:
        return b'"BOOKMARK"' not in event[:40]
    body = json.loads(event)
    labels = body["object"].get("metadata", {}).get("labels") or {}
    return name in (body["object"].get("metadata", {}).get("name"), labels.get("finetune.dev/job-name"))


def abort(request: web.Request) -> None:
    """Cut the connection without a word."""
    if request.transport:
        request.transport.abort()


# what happens to a request


def code(status: int, message: str = "injected", **headers: str) -> Answer:
    """The API server refuses."""

    async def answer(_: ScriptedProxy, request: web.Request) -> web.Response:
        await request.read()
        reasons = {
            401: "Unauthorized",
            403: "Forbidden",
            409: "Conflict",
            410: "Expired",
            429: "TooManyRequests",
        }
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": message}
        body["reason"] = reasons.get(status, "InternalError")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(body, status=status, headers=named)

    return answer


def page(status: int = 502) -> Answer:
    """A load balancer answers in the API server's place."""

    async def answer(_: ScriptedProxy, request: web.Request) -> web.Response:
        await request.read()
        text = "<html><body><h1>Bad Gateway</h1></body></html>"
        return web.Response(status=status, text=text, content_type="text/html")

    return answer


def late(seconds: float) -> Answer:
    """The request arrives later."""

    async def answer(proxy: ScriptedProxy, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await FaultProxy._forward(proxy, request)

    return answer


async def lost_before(_: ScriptedProxy, request: web.Request) -> web.Response:
    """The connection is cut before the request arrives."""
    await request.read()
    abort(request)
    return web.Response(status=502)


async def lost_after(proxy: ScriptedProxy, request: web.Request) -> web.Response:
    """The request is carried out, and its answer lost."""
    await proxy.send(request)
    abort(request)
    return web.Response(status=502)


async def stale(proxy: ScriptedProxy, request: web.Request) -> web.Response:
    """A LIST is answered as it was when it was kept: by an API server whose cache is behind."""
    return web.Response(body=proxy.kept[request.path], content_type="application/json")


# what happens to an event


async def dropped(_: bytes) -> Lines:
    """It never arrives."""
    for nothing in ():
        yield nothing


async def twice(event: bytes) -> Lines:
    """It arrives twice."""
    yield event
    yield event


def delayed(seconds: float) -> EventFault:
    """It and all that follow arrive later."""

    async def fault(event: bytes) -> Lines:
        await asyncio.sleep(seconds)
        yield event

    return fault


def rewound() -> EventFault:
    """All earlier events arrive once more before it, the oldest first."""
    before: list[bytes] = []

    async def fault(event: bytes) -> Lines:
        for one in before:
            yield one
        before.append(event)
        yield event

    return fault


async def frozen(_: bytes) -> Lines:
    """It and all that follow never arrive, and the connection stays open."""
    await asyncio.sleep(FOREVER)
    yield b""


async def cut_in_the_line(event: bytes) -> Lines:
    """Half of it arrives, then the connection is cut."""
    yield event[: len(event) // 2]
    raise Cut


async def cut(event: bytes) -> Lines:
    """The connection is cut instead."""
    if event:
        raise Cut
    yield event


async def garbage(_: bytes) -> Lines:
    """What arrives is no JSON."""
    yield b"<html>502 Bad Gateway</html>\n"


def error(status: int) -> EventFault:
    """The API server says that the watch has failed."""

    async def fault(_: bytes) -> Lines:
        of = {
            "kind": "Status",
            "status": "Failure",
            "code": status,
            "message": "injected",
            "reason": "Expired",
        }
        yield json.dumps({"type": "ERROR", "object": of}).encode() + b"\n"

    return fault
