"""A reverse proxy before the API server: counts writes, can end the operator at one, can refuse LISTs, hold single
writes back, and let nothing through.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import aiohttp
from aiohttp import web

from finetune_cluster.apiserver import ApiServer
from ports import free_port

_READS = ("GET", "HEAD")
_HEADERS = ("Authorization", "Content-Type", "Accept")


class FaultProxy:
    """Speaks HTTP to the operator and TLS to the API server. `at` a write, `strike` is called."""

    def __init__(self, server: ApiServer, folder: Path, port: int | None = None) -> None:
        self._server, self._loop = server, asyncio.new_event_loop()
        self.port = port or free_port()
        self.kubeconfig = folder / "proxy.kubeconfig"
        self.kubeconfig.write_text(_kubeconfig(self.port, server.token))
        self.writes: list[str] = []
        self.counts: Callable[[str], bool] = lambda write: True
        """Which writes are counted; the others pass."""
        self.refusals: dict[str, int] = {}
        """Namespaces whose LISTs by the operator's own client are answered with a code."""
        self.holds: Callable[[str], bool] = lambda write: False
        """Which writes are held back until `let_go`, whether their client still waits or not."""
        self.held: list[tuple[str, int]] = []
        """Writes that were held back, with the API server's answer."""
        self._let_go, self._uncut = asyncio.Event(), asyncio.Event()
        self._uncut.set()
        self._target: tuple[int, bool] | None = None
        self._strike: Callable[[], None] = lambda: None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._started.wait(10)

    def arm(self, number: int, strike: Callable[[], None], *, after: bool) -> None:
        """Strike at the write of this number (from 1), before it is forwarded or after it was applied."""
        self.writes, self._target, self._strike = [], (number, after), strike

    def disarm(self) -> None:
        """Only count, from 0."""
        self.writes, self._target = [], None

    def let_go(self) -> None:
        """Forward what is held back."""
        self._loop.call_soon_threadsafe(self._let_go.set)

    def cut(self) -> None:
        """Let nothing through in either direction, as a broken network: connections stay open."""
        self._loop.call_soon_threadsafe(self._uncut.clear)

    def stop(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.call_soon(self._started.set)
        self._loop.run_forever()
        self._loop.run_until_complete(self._close())
        self._loop.close()

    async def _serve(self) -> None:
        tls = ssl.create_default_context(cafile=str(self._server.ca))
        connector = aiohttp.TCPConnector(ssl=tls, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def _close(self) -> None:
        await self._session.close()
        await self._runner.cleanup()
        open_still = asyncio.all_tasks() - {asyncio.current_task()}  # requests that are held back
        for task in open_still:
            task.cancel()
        await asyncio.gather(*open_still, return_exceptions=True)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        await self._uncut.wait()
        if request.method in _READS and (code := self._refused(request)):
            return web.json_response({"kind": "Status", "code": code, "message": "refused"}, status=code)
        if request.method in _READS:
            return await self._pass_on(request)
        write = f"{request.method} {request.path}"
        if not self.counts(write):
            return await self._pass_on(request)
        self.writes.append(write)
        if self.holds(write):
            return await self._hold(request, write)
        struck = self._target is not None and self._target[0] == len(self.writes)
        after = bool(self._target and self._target[1])
        if struck and not after:
            self._strike()
            raise web.HTTPBadGateway  # nobody reads it any more
        if not struck:
            return await self._pass_on(request)
        await self._send(request)
        self._strike()
        raise web.HTTPBadGateway

    async def _send(self, request: web.Request) -> tuple[int, bytes]:
        """A request and its whole answer."""
        body = await request.read()
        headers = {name: request.headers[name] for name in _HEADERS if name in request.headers}
        url = self._server.url + request.path_qs
        async with self._session.request(request.method, url, headers=headers, data=body) as answer:
            return answer.status, await answer.read()

    async def _hold(self, request: web.Request, write: str) -> web.Response:
        await request.read()
        await self._let_go.wait()
        status, text = await self._send(request)
        self.held.append((write, status))
        return web.Response(status=status, body=text, content_type="application/json")

    def _refused(self, request: web.Request) -> int | None:
        ours = request.headers.get("User-Agent") == "finetune-operator" and "limit" in request.query
        codes = [code for name, code in self.refusals.items() if f"/namespaces/{name}/" in request.path]
        return codes[0] if ours and codes else None

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in _HEADERS if name in request.headers}
        url, body = self._server.url + request.path_qs, await request.read() or None
        async with self._session.request(request.method, url, headers=headers, data=body) as answer:
            response = web.StreamResponse(status=answer.status)
            response.content_type = answer.content_type
            with contextlib.suppress(aiohttp.ClientConnectionResetError):  # the operator has gone
                await response.prepare(request)
                async for part in answer.content.iter_any():
                    await self._uncut.wait()
                    await response.write(part)
                await response.write_eof()
            return response


def _kubeconfig(port: int, token: str) -> str:
    return f"""apiVersion: v1
kind: Config
current-context: proxy
contexts: [{{name: proxy, context: {{cluster: proxy, user: admin}}}}]
clusters: [{{name: proxy, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: admin, user: {{token: "{token}"}}}}]
"""
