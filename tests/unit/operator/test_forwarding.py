"""A standby hands reports on to the leader: two real ports in this process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientConnectionError, ClientSession, web

from finetune_operator.certificate import make
from finetune_operator.forwarding import Forwarding
from finetune_operator.leader import Leadership
from finetune_operator.lease import Claim
from finetune_operator.listener import Limits, serving_strangers
from finetune_operator.tls import server_context
from ports import free_port
from unit.operator.test_listener import CERTIFICATE, trusting

FEW_FAILURES = Limits(failures=3, failures_per_second=0.0)
MANY_FAILURES = Limits(failures=100)


@asynccontextmanager
async def replica(leadership: Leadership, limits: Limits) -> AsyncIterator[int]:
    """Its port; it takes the token `good` only."""

    async def post(request: web.Request) -> web.Response:
        return web.Response(status=200 if request.headers.get("Authorization") == "good" else 401)

    forwarding, port = Forwarding(leadership, CERTIFICATE, "localhost"), free_port()
    app = web.Application(middlewares=[forwarding.middleware])
    app.router.add_post("/", post)
    tls = server_context(CERTIFICATE)
    async with serving_strangers(app, port, tls, lambda: None, limits, forwarding.is_forwarded):
        yield port
    await forwarding.close()


@asynccontextmanager
async def leader_and_standby() -> AsyncIterator[tuple[int, int]]:
    leads, follows = Leadership(), Leadership()
    leads.lead()
    async with replica(leads, FEW_FAILURES) as leader, replica(follows, MANY_FAILURES) as standby:
        follows.leader = Claim("leader", address=f"127.0.0.1:{leader}")
        yield leader, standby


async def post(port: int, token: str, **headers: str) -> int:
    async with (
        ClientSession() as session,
        session.post(
            f"https://localhost:{port}/", ssl=trusting(), headers={"Authorization": token} | headers
        ) as answer,
    ):
        return answer.status


async def test_refused_reports_that_come_through_the_standby_keep_out_no_other_of_them() -> None:
    async with leader_and_standby() as (_, standby):
        assert [await post(standby, "junk") for _ in range(8)] == [401] * 8
        assert await post(standby, "good") == 200


@pytest.mark.parametrize("signature", ["1", "\xff", "0" * 64])
async def test_a_stranger_cannot_say_that_a_replica_has_handed_its_reports_on(signature: str) -> None:
    async with leader_and_standby() as (leader, _):
        assert [await post(leader, "junk", **{"Finetune-Forwarded": signature}) for _ in range(3)] == [
            401
        ] * 3
        with pytest.raises(ClientConnectionError):
            await post(leader, "good")


async def test_the_signature_is_that_of_the_token_and_of_the_shared_key() -> None:
    ours, theirs = (Forwarding(Leadership(), one, "localhost") for one in (CERTIFICATE, make("localhost")))
    signed = ours._signature("good")
    assert signed == ours._signature("good")
    assert signed not in (ours._signature("other"), theirs._signature("good"), ours._signature("\udcff"))
