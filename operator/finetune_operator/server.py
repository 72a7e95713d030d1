"""The operator's HTTP port: /metrics, /healthz and /readyz."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from finetune_operator.metrics import Metrics


def status_app(metrics: Metrics, ready: Callable[[], str | None]) -> web.Application:
    """`ready` answers what is missing, None when nothing is."""

    async def expose(_: web.Request) -> web.Response:
        return web.Response(body=metrics.expose(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def is_ready(_: web.Request) -> web.Response:
        missing = ready()
        return web.Response(text=missing or "ok", status=503 if missing else 200)

    app = web.Application()
    app.router.add_get("/metrics", expose)
    app.router.add_get("/healthz", healthy)
    app.router.add_get("/readyz", is_ready)
    return app


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
