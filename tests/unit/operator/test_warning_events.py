"""What Events warn of is read once for all jobs of a namespace, and again soon."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from finetune_core.wire import time_of
from finetune_operator import warning_events
from finetune_operator.errors import ApiError
from finetune_operator.warning_events import REFUSED, UNMOUNTED, WarningEvents

Body = dict[str, Any]


class Server:
    """Events of each namespace, and how often they were listed."""

    def __init__(self, **events: list[Body] | ApiError) -> None:
        self.events, self.lists, self.fields = events, list[str](), list[str]()

    async def pages(
        self, kind: str, namespace: str, selector: str = "", fields: str = ""
    ) -> AsyncIterator[list[Body]]:
        assert kind == "Event"
        self.lists.append(namespace)
        self.fields.append(fields)
        await asyncio.sleep(0)
        found = self.events[namespace]
        if isinstance(found, ApiError):
            raise found
        for event in found:
            yield [event]


def event(uid: Any, version: int, message: Any = "exceeded quota") -> Body:
    return {
        "metadata": {"resourceVersion": str(version)},
        "involvedObject": {"uid": uid},
        "message": message,
    }


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Refusals:
    """Why pods are refused."""

    events: WarningEvents

    async def why(self, namespace: str, uid: str) -> str | None:
        found = await self.events.newest(namespace, uid, REFUSED)
        return found.message if found else None


def of(clock: Clock | None = None, **events: list[Body] | ApiError) -> tuple[Server, Refusals]:
    server = Server(**events)
    return server, Refusals(WarningEvents(server, clock or Clock()))  # type: ignore[arg-type]


async def both(pods: Refusals) -> tuple[str | None, str | None]:
    """Two answers about a Job, asked for at the same time."""
    first, second = await asyncio.gather(pods.why("team", "one"), pods.why("team", "one"))
    return first, second


async def test_one_list_answers_for_all_jobs_for_a_while() -> None:
    server, pods = of(team=[event(f"uid-{number}", number, f"quota {number}") for number in range(1, 100)])
    answers = [await pods.why("team", f"uid-{number}") for number in range(1, 101)]
    assert answers == [*[f"quota {number}" for number in range(1, 100)], None]
    assert server.lists == ["team"]


async def test_jobs_that_ask_while_it_is_listed_do_not_wait_and_hear_what_was_known() -> None:
    clock = Clock()
    server, pods = of(clock, team=[event("one", 1, "before")])
    assert await both(pods) == ("before", None)
    clock.now += 5
    server.events["team"] = [event("one", 2, "now")]
    assert await both(pods) == ("now", "before")
    assert server.lists == ["team", "team"]


async def test_each_namespace_has_its_answers() -> None:
    server, pods = of(one=[event("uid", 1, "one")], two=[])
    assert [await pods.why(name, "uid") for name in ("one", "two")] == ["one", None]
    assert server.lists == ["one", "two"]


async def test_the_newest_event_of_a_job_counts() -> None:
    _, pods = of(team=[event("uid", 99, "before"), event("uid", 100, "now"), event("uid", 98, "long ago")])
    assert await pods.why("team", "uid") == "now"


async def test_it_is_listed_anew_once_the_answer_is_old() -> None:
    clock = Clock()
    server, pods = of(clock, team=[])
    assert await pods.why("team", "uid") is None
    clock.now += 5
    server.events["team"] = [event("uid", 1)]
    assert await pods.why("team", "uid") == "exceeded quota"


async def test_a_list_that_takes_long_is_asked_for_less_often() -> None:
    clock = Clock()

    class Slow(Server):
        async def pages(self, *args: Any, **fields: Any) -> AsyncIterator[list[Body]]:
            clock.now += 2
            async for page in super().pages(*args, **fields):
                yield page

    server = Slow(team=[])
    pods = Refusals(WarningEvents(server, clock))  # type: ignore[arg-type]
    began = clock.now
    for later, lists in ((0, 1), (5, 1), (39, 1), (40, 2)):
        clock.now = max(clock.now, began + later)
        await pods.why("team", "uid")
        assert len(server.lists) == lists, later


async def test_without_the_right_to_read_events_nothing_is_known() -> None:
    _, pods = of(team=ApiError("GET", "events", 403, "forbidden"))
    assert await pods.why("team", "uid") is None


async def test_another_failure_is_raised_and_not_remembered() -> None:
    server, pods = of(team=ApiError("GET", "events", 500, "etcd is away"))
    with pytest.raises(ApiError):
        await pods.why("team", "uid")
    server.events["team"] = [event("uid", 1)]
    assert await pods.why("team", "uid") == "exceeded quota"


@pytest.mark.parametrize("strange", [event(None, 1), event("uid", 1, {}), event(["uid"], 1, 7)])
async def test_a_strange_event_is_passed_over(strange: Body) -> None:
    _, pods = of(team=[strange, event("other", 2)])
    assert await pods.why("team", "uid") is None
    assert await pods.why("team", "other") == "exceeded quota"


async def test_a_tenant_who_makes_endless_events_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warning_events, "_MOST", 10)
    _, pods = of(team=[event(f"uid-{number}", 1, "x" * 5000) for number in range(100)])
    assert len(await pods.why("team", "uid-9") or "") == 1024
    assert await pods.why("team", "uid-10") is None


CAUSE = 'MountVolume.SetUp failed for volume "input-0" : configmap "rows" not found'
SUMMARY = (
    "Unable to attach or mount volumes: unmounted volumes=[input-0], timed out waiting for the condition"
)


async def test_a_cause_is_told_rather_than_a_newer_summary_without_one() -> None:
    server, _ = of(team=[event("pod", 3, CAUSE), event("pod", 9, SUMMARY), event("other", 4, SUMMARY)])
    events = WarningEvents(server)  # type: ignore[arg-type]
    found = [await events.newest("team", uid, UNMOUNTED) for uid in ("pod", "other")]
    assert [one and one.message for one in found] == [CAUSE, SUMMARY]
    assert server.fields == ["reason=FailedMount", "reason=FailedAttachVolume"]


async def test_events_of_other_reasons_are_listed_apart() -> None:
    server, _ = of(team=[event("uid", 1)])
    events = WarningEvents(server)  # type: ignore[arg-type]
    assert await events.newest("team", "uid", REFUSED)
    assert await events.newest("team", "uid", UNMOUNTED)
    assert len(server.fields) == 3


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({"firstTimestamp": "2026-01-01T11:00:00Z", "lastTimestamp": "2026-01-01T12:00:00Z"}, True),
        ({"lastTimestamp": None, "eventTime": "2026-01-01T12:00:00.000000Z"}, True),
        ({"lastTimestamp": 7}, False),
    ],
)
async def test_when_it_was_said_last_is_read(times: Body, said: bool) -> None:
    server, _ = of(team=[event("uid", 1) | times])
    found = await WarningEvents(server).newest("team", "uid", UNMOUNTED)  # type: ignore[arg-type]
    assert found
    assert found.time == (time_of("2026-01-01T12:00:00Z") if said else None)
