"""A standby hands progress reports on to the leader. A report that cannot be handed on is lost, which fails nothing.

The Service leads to all replicas, so that progress depends neither on readiness nor on how soon endpoints change. The
leader's address is in its Lease; its certificate is the one that all replicas share, so no other server gets a token.
The key of that certificate also signs what is handed on, so that the leader knows it from a stranger's request.
"""

import asyncio
import hashlib
import hmac
import ssl

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from aiohttp.typedefs import Handler, Middleware

from finetune_operator.certificate import Certificate
from finetune_operator.leader import Leadership

_HEADERS = ("Authorization", "Content-Type")
_FORWARDED = "Finetune-Forwarded"
_TIMEOUT = ClientTimeout(total=5)
_AT_ONCE = 16
"""Fewer than the leader accepts from one address."""


class Forwarding:
    """`certificate` is the one that all replicas share, `host` the name in it."""

    def __init__(self, leadership: Leadership, certificate: Certificate, host: str) -> None:
        self._leadership, self._host, self._key = leadership, host, certificate.key.encode()
        self._tls = ssl.create_default_context(cadata=certificate.authority)
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._session: ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session:
            await self._session.close()

    @property
    def middleware(self) -> Middleware:
        """Before the handlers of the progress port."""

        @web.middleware
        async def handled_by_the_leader(request: web.Request, handler: Handler) -> web.StreamResponse:
            if self._leadership.leads:
                return await handler(request)
            return await self._forward(request)

        return handled_by_the_leader

    def is_forwarded(self, request: web.Request) -> bool:
        """Whether a replica has handed it on."""
        signature = request.headers.get(_FORWARDED, "").encode(errors="surrogateescape")
        return hmac.compare_digest(signature, self._signature(_token(request)).encode())

    def _signature(self, token: str) -> str:
        return hmac.new(self._key, token.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()

    async def _forward(self, request: web.Request) -> web.Response:
        leader = self._leadership.leader
        if _FORWARDED in request.headers or leader is None or not leader.address:
            raise _later("no replica leads at the moment")
        headers = {name: request.headers[name] for name in _HEADERS if name in request.headers}
        body = await request.read()
        try:
            async with (
                self._free,
                self._opened().post(
                    f"https://{leader.address}{request.path}",
                    data=body,
                    headers=headers | {_FORWARDED: self._signature(_token(request))},
                    server_hostname=self._host,
                    allow_redirects=False,
                ) as answer,
            ):
                return web.Response(
                    status=answer.status, body=await answer.read(), content_type=answer.content_type
                )
        except (ClientError, TimeoutError, ValueError) as error:
            raise _later(f"the leader cannot be reached: {error or type(error).__name__}") from error

    def _opened(self) -> ClientSession:
        if self._session is None:
            connector = TCPConnector(ssl=self._tls, limit=_AT_ONCE, force_close=True)
            self._session = ClientSession(connector=connector, timeout=_TIMEOUT)
        return self._session


def _token(request: web.Request) -> str:
    return request.headers.get("Authorization", "")


def _later(why: str) -> web.HTTPServiceUnavailable:
    return web.HTTPServiceUnavailable(text=f"{why}; retry later", headers={"Retry-After": "2"})
