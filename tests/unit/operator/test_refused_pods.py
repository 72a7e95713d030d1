"""Why pods are refused is read once for all jobs of a namespace, and again soon."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from finetune_operator import refused_pods
from finetune_operator.errors import ApiError
from finetune_operator.refused_pods import RefusedPods

Body = dict[str, Any]


class Server:
    """Events of each namespace, and how often they were listed."""

    def __init__(self, **events: list[Body] | ApiError) -> None:
        self.events, self.lists = events, list[str]()

    async def pages(
        self, kind: str, namespace: str, selector: str = "", fields: str = ""
    ) -> AsyncIterator[list[Body]]:
        assert (kind, fields) == ("Event", "reason=FailedCreate")
        self.lists.append(namespace)
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


def of(clock: Clock | None = None, **events: list[Body] | ApiError) -> tuple[Server, RefusedPods]:
    server = Server(**events)
    return server, RefusedPods(server, clock or Clock())  # type: ignore[arg-type]


async def both(pods: RefusedPods) -> tuple[str | None, str | None]:
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
    monkeypatch.setattr(refused_pods, "_MOST", 10)
    _, pods = of(team=[event(f"uid-{number}", 1, "x" * 5000) for number in range(100)])
    assert len(await pods.why("team", "uid-9") or "") == 1024
    assert await pods.why("team", "uid-10") is None
