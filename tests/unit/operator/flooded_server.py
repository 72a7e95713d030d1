"""A progress port without a cluster, for test_listener: prints its port, then serves until its input ends."""

import asyncio
import sys

from aiohttp import web

from finetune_operator.certificate import make
from finetune_operator.listener import Limits, serving_strangers
from finetune_operator.tls import server_context
from ports import free_port


async def _answer(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def main() -> None:
    app = web.Application()
    app.router.add_post("/", _answer)
    port = free_port()
    async with serving_strangers(app, port, server_context(make("localhost")), lambda: None, Limits()):
        print(port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
