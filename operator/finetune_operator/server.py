"""The operator's HTTP port: /metrics, /healthz and /readyz."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from finetune_operator.metrics.page import Part
from finetune_operator.metrics.registry import Metrics


def status_app(metrics: Metrics, readiness: Callable[[], tuple[bool, str]]) -> web.Application:
    """`readiness` answers whether the operator is ready, and what is missing."""

    async def expose(_: web.Request) -> web.Response:
        parts = await asyncio.to_thread(metrics.expose)  # seconds with thousands of jobs
        return web.Response(body=_each(parts), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def is_ready(_: web.Request) -> web.Response:
        ready, text = readiness()
        return web.Response(text=text, status=200 if ready else 503)

    app = web.Application()
    app.router.add_get("/metrics", expose)
    app.router.add_get("/healthz", healthy)
    app.router.add_get("/readyz", is_ready)
    return app


async def _each(parts: deque[Part]) -> AsyncIterator[Part]:
    """The parts, each freed once it is sent: joined they would take the memory of the page twice."""
    while parts:
        yield parts.popleft()


@asynccontextmanager
async def serving(app: web.Application, port: int) -> AsyncIterator[None]:
    """Serve while the context lasts."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()
