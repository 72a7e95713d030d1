"""Events beside the reconciles: none waits for them, and those that are dropped are counted."""

import asyncio
from typing import Any

import pytest

from finetune_operator.errors import AlreadyExistsError, ApiError
from finetune_operator.poster import Poster

Body = dict[str, Any]


class ApiServer:
    """Takes Events while `open`; the first answers may be errors."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.taken = list(errors), list[str]()
        self.open = asyncio.Event()
        self.open.set()

    async def create(self, kind: str, body: Body) -> Body:
        await self.open.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.taken.append(body["metadata"]["name"])
        return body


def events(*names: str) -> list[Body]:
    return [{"metadata": {"name": name}} for name in names]


async def test_a_server_that_takes_no_events_keeps_nobody_waiting() -> None:
    server = ApiServer()
    server.open.clear()
    poster = Poster(server)  # type: ignore[arg-type]
    async with poster.posting():
        poster.add(events("a", "b", "c"))
        await asyncio.sleep(0)
        assert server.taken == []
        server.open.set()
        async with asyncio.timeout(60):
            while len(server.taken) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    assert sorted(server.taken) == ["a", "b", "c"]


async def test_an_event_that_is_refused_is_logged_and_the_next_is_posted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refused = ApiError("POST", "/events", 403, "forbidden")
    known = AlreadyExistsError("POST", "/events", 409, "exists")
    server = ApiServer(refused, known, ValueError("not JSON"))
    poster = Poster(server)  # type: ignore[arg-type]
    poster.add(events("a", "b", "c", "d"))
    await poster.flush()
    assert server.taken == ["d"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


async def test_the_oldest_of_too_many_are_dropped_and_their_number_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = ApiServer()
    poster = Poster(server, most=3)  # type: ignore[arg-type]
    async with poster.posting():
        poster.add(events(*"abcdefgh"))
        async with asyncio.timeout(60):
            while not caplog.records:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    assert sorted(server.taken) == ["f", "g", "h"]
    assert "5 Events were not posted" in caplog.text
