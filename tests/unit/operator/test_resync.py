"""The comparison with the API server: what it takes up, what it forgets, and what happens where it may not look."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from builders import job, stored
from finetune_operator.cache import Cache, Key
from finetune_operator.errors import ApiError
from finetune_operator.metrics import Metrics
from finetune_operator.resync import Resync
from unit.operator.worlds import settings

Body = dict[str, Any]


class ApiServer:
    """FineTuneJobs by namespace, and namespaces that refuse a LIST."""

    def __init__(self, **jobs: list[str]) -> None:
        self.jobs, self.refused = jobs, dict[str, int]()
        self.open = self.most_open = 0

    async def pages(self, kind: str, namespace: str | None, selector: str = "") -> AsyncIterator[list[Body]]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(0)
        try:
            if status := self.refused.get(namespace or ""):
                raise ApiError("GET", f"/api/v1/namespaces/{namespace}/pods", status, "pods is forbidden")
            if kind == "FineTuneJob":
                for place in [namespace] if namespace else list(self.jobs):
                    for name in self.jobs[place or ""]:
                        yield [stored(job(name), namespace=place or "", uid=f"uid-{place}-{name}")]
        finally:
            self.open -= 1


class Queue(list[Key]):
    def add(self, key: Key) -> None:
        self.append(key)


def resync_of(server: ApiServer, *namespaces: str, **fields: Any) -> Resync:
    configured = settings(namespaces=list(namespaces), **fields)
    return Resync(server, Cache(), Queue(), configured)  # type: ignore[arg-type]


def served(resync: Resync) -> set[str]:
    return {key.namespace for key in resync.queue}  # type: ignore[attr-defined]


async def test_a_namespace_that_may_not_be_listed_does_not_stop_the_others() -> None:
    server = ApiServer(a=["one"], b=["two"], c=["three"])
    server.refused["b"] = 403
    resync = resync_of(server, "b", "a", "c")
    await resync.once()
    assert served(resync) == {"a", "c"}
    ready, text = resync.readiness()
    assert ready
    assert "namespace b is not served" in text
    assert "403" in text
    page = Metrics(resync.cache).expose().decode()
    assert 'finetune_operator_namespace_unserved{namespace="b"} 1.0' in page
    assert 'namespace="a"} 1.0' not in page


async def test_it_is_taken_up_when_it_returns_and_its_jobs_are_enqueued() -> None:
    server = ApiServer(a=["one"], b=["two"])
    server.refused["b"] = 403
    resync = resync_of(server, "a", "b")
    await resync.once()
    del server.refused["b"]
    await resync.once()
    assert served(resync) == {"a", "b"}
    assert resync.readiness() == (True, "ok")
    assert "unserved{" not in Metrics(resync.cache).expose().decode()


async def test_what_is_known_of_a_namespace_that_is_lost_stays_known_and_is_named() -> None:
    server = ApiServer(a=["one"], b=["two"])
    resync = resync_of(server, "a", "b")
    await resync.once()
    server.refused["b"] = 403
    await resync.once()
    assert Key("b", "two") in resync.cache.finetunejobs
    assert list(resync.cache.unserved) == ["b"]


async def test_without_any_namespace_it_is_not_ready_and_says_why() -> None:
    server = ApiServer()
    server.refused = {"a": 403, "b": 403}
    resync = resync_of(server, "a", "b")
    await resync.once()
    ready, text = resync.readiness()
    assert not ready
    assert "namespace a is not served" in text


@pytest.mark.parametrize(("namespaces", "status"), [((), 403), (("a",), 500), (("a",), 401), (("a",), 404)])
async def test_another_refusal_is_an_error_as_no_namespace_is_to_blame(
    namespaces: tuple[str, ...], status: int
) -> None:
    server = ApiServer(a=["one"])
    server.refused = {"a": status, "": status}
    with pytest.raises(ApiError):
        await resync_of(server, *namespaces).once()


async def test_one_list_is_taken_at_a_time() -> None:
    server = ApiServer(a=["one"], b=["two"])
    await resync_of(server, "a", "b").once()
    assert server.most_open == 1


async def test_a_job_that_is_gone_is_forgotten_and_one_of_another_namespace_is_not() -> None:
    server = ApiServer(a=["one"], b=["two"])
    resync = resync_of(server, "a", "b")
    await resync.once()
    server.jobs["a"] = []
    await resync.once()
    assert list(resync.cache.finetunejobs) == [Key("b", "two")]


async def test_a_comparison_follows_soon_after_the_start_and_then_at_the_interval() -> None:
    server = ApiServer(a=["one"])
    resync = resync_of(server, "a", resync_interval=1)
    await resync.once()
    first = resync.last
    task = asyncio.create_task(resync.repeat())
    async with asyncio.timeout(10):
        while resync.last == first:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
