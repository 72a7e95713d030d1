"""Events beside the reconciles: none waits for them, and those that are dropped are counted."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator import poster as poster_module
from finetune_operator.errors import AlreadyExistsError, ApiError
from finetune_operator.event_budget import BURST, REFILL
from finetune_operator.events import Event
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


def calm(*, at_once: bool = True) -> asyncio.Event:
    made = asyncio.Event()
    if at_once:
        made.set()
    return made


async def until(question: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not question():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def events(*names: str) -> list[Event]:
    return [
        Event("team-a", "job", "uid", "1", "Normal", "Running", "", datetime.now(UTC), name) for name in names
    ]


async def test_a_server_that_takes_no_events_keeps_nobody_waiting() -> None:
    server = ApiServer()
    server.open.clear()
    poster = Poster(server)  # type: ignore[arg-type]
    async with poster.posting(calm()):
        poster.add(events("a", "b", "c"))
        await asyncio.sleep(0)
        assert server.taken == []
        server.open.set()
        await until(lambda: len(server.taken) == 3)
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
    async with poster.posting(calm()):
        poster.add(events(*"abcdefgh"))
        await until(lambda: bool(caplog.records))
    assert sorted(server.taken) == ["f", "g", "h"]
    assert "5 Events were not posted" in caplog.text


def with_clock(clock: Callable[[], float], monkeypatch: pytest.MonkeyPatch) -> tuple[ApiServer, Poster]:
    """A poster that looks often at this clock."""
    monkeypatch.setattr(poster_module, "_LOOK", 0.01)
    server = ApiServer()
    return server, Poster(server, clock=clock)  # type: ignore[arg-type]


async def test_events_wait_while_new_jobs_do_and_are_posted_when_none_does() -> None:
    server, later = ApiServer(), calm(at_once=False)
    poster = Poster(server)  # type: ignore[arg-type]
    async with poster.posting(later):
        poster.add(events("a", "b"))
        await asyncio.sleep(0.05)
        assert server.taken == []
        later.set()
        await until(lambda: len(server.taken) == 2)


async def test_an_event_that_has_waited_for_a_minute_is_posted_and_a_younger_one_waits_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    server, poster = with_clock(lambda: now, monkeypatch)
    async with poster.posting(calm(at_once=False)):
        poster.add(events("old"))
        now = 59.0
        poster.add(events("young"))
        await asyncio.sleep(0.05)
        assert server.taken == []
        now = 60.0
        await until(lambda: bool(server.taken))
        await asyncio.sleep(0.05)
        assert server.taken == ["old"]


async def test_an_event_over_the_budget_of_its_job_is_posted_when_there_is_a_token_or_the_operator_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    server, poster = with_clock(lambda: now, monkeypatch)
    async with poster.posting(calm()):
        poster.add(events(*map(str, range(BURST)), "held"))
        await until(lambda: len(server.taken) == BURST)
        await asyncio.sleep(0.05)
        assert "held" not in server.taken
        now = REFILL
        await until(lambda: server.taken[-1] == "held")
        poster.add(events("at the end"))
        await asyncio.sleep(0.05)
        assert server.taken[-1] == "held"
    assert server.taken[-1] == "at the end"


async def test_many_events_do_not_wait_until_the_oldest_would_be_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(poster_module, "_LOOK", 0.01)
    server = ApiServer()
    poster = Poster(server, most=10)  # type: ignore[arg-type]
    async with poster.posting(calm(at_once=False)):
        poster.add(events(*"abcdefgh"))
        await until(lambda: len(server.taken) == 3)
        await asyncio.sleep(0.05)
        assert server.taken == ["a", "b", "c"], "half of ten may wait"
    assert sorted(server.taken) == [*"abcdefgh"], "the end does not wait"
    assert not caplog.records


async def test_what_an_ending_operator_cannot_post_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(poster_module, "_LAST_MOMENT", 0.01)
    server = ApiServer()
    server.open.clear()
    poster = Poster(server)  # type: ignore[arg-type]
    async with poster.posting(calm(at_once=False)):
        poster.add(events(*[f"e{number}" for number in range(20)]))
    assert server.taken == []
    assert "20 Events were not posted: the operator ended" in caplog.text
