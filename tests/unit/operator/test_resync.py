"""The comparison with the API server: what it takes up, what it forgets, and what happens where it may not look."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from aiohttp import ClientConnectionError

from builders import job, stored
from finetune_operator.cache import Cache, Key
from finetune_operator.errors import ApiError, NotFoundError, RewoundError
from finetune_operator.metrics.registry import Metrics
from finetune_operator.resync import Resync
from unit.operator.worlds import settings

Body = dict[str, Any]


class ApiServer:
    """FineTuneJobs by namespace, and namespaces whose LIST fails: with a code, or without an answer."""

    def __init__(self, **jobs: list[str]) -> None:
        self.jobs, self.refused = jobs, dict[str, int | Exception]()
        self.open = self.most_open = 0
        self.revision = 1
        self.defined = True

    async def serves_finetunejobs(self) -> bool:
        return self.defined

    async def version(self, kind: str, namespace: str | None, selector: str = "") -> int:
        return self.revision

    async def pages(self, kind: str, namespace: str | None, selector: str = "") -> AsyncIterator[list[Body]]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(0)
        try:
            if status := self.refused.get(namespace or ""):
                raise status if isinstance(status, Exception) else failure(status, namespace)
            if kind == "FineTuneJob":
                for place in [namespace] if namespace else list(self.jobs):
                    for name in self.jobs[place or ""]:
                        yield [stored(job(name), namespace=place or "", uid=f"uid-{place}-{name}")]
        finally:
            self.open -= 1


def failure(status: int, namespace: str | None) -> ApiError:
    kind = NotFoundError if status == 404 else ApiError
    return kind("GET", f"/api/v1/namespaces/{namespace}/pods", status, "the server says no")


class Queue(list[Key]):
    def add(self, key: Key) -> None:
        self.append(key)


def resync_of(server: ApiServer, *namespaces: str, **fields: Any) -> Resync:
    configured = settings(namespaces=list(namespaces), **fields)
    return Resync(server, Cache(), Queue(), configured)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


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
    page = b"".join(Metrics(resync.cache).expose()).decode()
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
    assert "unserved{" not in b"".join(Metrics(resync.cache).expose()).decode()


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


FAILURES = pytest.mark.parametrize(
    "failing",
    [401, 403, 404, 410, 429, 500, 503, TimeoutError(), ClientConnectionError("closed")],
    ids=repr,
)


@FAILURES
async def test_a_failure_in_one_namespace_does_not_stop_the_others_and_is_named(
    failing: int | Exception,
) -> None:
    server = ApiServer(a=["one"], b=["two"])
    server.refused["a"] = failing
    resync = resync_of(server, "a", "b")
    assert await resync.once()
    assert served(resync) == {"b"}
    ready, text = resync.readiness()
    assert ready
    assert "namespace a is not served" in text
    assert (str(failing) or "TimeoutError") in text


@FAILURES
async def test_a_namespace_that_was_compared_before_stays_served_unless_it_is_lost(
    failing: int | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    server = ApiServer(a=["one"], b=["two"])
    resync = resync_of(server, "a", "b")
    await resync.once()
    server.refused["a"] = failing
    caplog.clear()
    await resync.once()
    assert ("a" in resync.cache.unserved) == (failing in (403, 404))
    assert Key("a", "one") in resync.cache.finetunejobs
    (warning,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert "namespace a" in warning.message


async def test_what_failed_is_tried_again_before_the_next_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.resync._RETRY", 0.01)
    server = ApiServer(a=["one"], b=["two"])
    resync = resync_of(server, "a", "b", resync_interval=1000)
    await resync.once()
    server.refused["b"] = 500
    await resync.once()
    resync.queue.clear()  # type: ignore[attr-defined]
    del server.refused["b"]
    async with running(resync.repeat()), asyncio.timeout(60):
        while not served(resync):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert served(resync) == {"b"}


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_at_the_start_an_api_server_that_is_away_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    monkeypatch.setattr("finetune_operator.resync._RETRY", 0.01)
    server = ApiServer(a=["one"])
    server.refused = {"": status}
    async with running(resync_of(server).begin()) as task, asyncio.timeout(60):
        while "failed, retrying" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        server.refused = {}
        await task


@pytest.mark.parametrize("status", [401, 403, 410])
async def test_at_the_start_a_refusal_of_the_whole_cluster_ends_the_process(status: int) -> None:
    server = ApiServer(a=["one"])
    server.refused = {"": status}
    with pytest.raises(ApiError):
        await resync_of(server).begin()


async def test_later_it_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("finetune_operator.resync._RETRY", 0.01)
    server = ApiServer(a=["one"])
    resync = resync_of(server)
    await resync.once()
    server.refused = {"": 500}
    async with running(resync.begin()) as task, asyncio.timeout(60):
        while "failed, retrying" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        server.refused = {}
        await task


async def test_without_the_crd_it_says_so_once_waits_and_says_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("finetune_operator.resync._RETRY", 0.01)
    server = ApiServer(a=["one"])
    server.defined = False
    resync = resync_of(server, "a")
    async with running(resync.begin()) as task:
        async with asyncio.timeout(60):
            while "finetunejobs.finetune.dev is not installed" not in resync.readiness()[1]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert not task.done()
        assert not resync.readiness()[0]
        server.defined = True
        async with asyncio.timeout(60):
            await task
    said = [one.message for one in caplog.records if "CustomResourceDefinition" in one.message]
    assert len(said) == 2
    assert "no FineTuneJob is served until it is" in said[0]
    assert "is installed: FineTuneJobs are served" in said[1]
    assert resync.readiness() == (True, "ok")


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
    async with running(resync.repeat()), asyncio.timeout(60):
        while resync.last == first:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_data_that_went_back_in_time_end_the_process_which_knows_another_history() -> None:
    server = ApiServer(a=["one"])
    resync = resync_of(server)
    await resync.once()
    known = resync.cache.finetunejobs[Key("a", "one")]
    newer = known | {"metadata": known["metadata"] | {"resourceVersion": "9"}}
    resync.cache.put_finetunejob(newer)
    server.revision = 9
    await resync.once()
    server.revision = 8
    with pytest.raises(RewoundError, match="finetunejobs went back from 9 to 8: etcd was restored"):
        await resync.once()
    resync.settings = settings(resync_interval=1)
    async with asyncio.timeout(60):
        with pytest.raises(RewoundError):
            await resync.repeat()


async def test_what_a_watch_brings_while_the_version_is_asked_for_is_no_other_history() -> None:
    class Busy(ApiServer):
        async def version(self, kind: str, namespace: str | None, selector: str = "") -> int:
            answer = self.revision
            known = resync.cache.finetunejobs.get(Key("a", "one"))
            if known:
                self.revision += 1
                newer = {"metadata": known["metadata"] | {"resourceVersion": str(self.revision)}}
                resync.cache.put_finetunejob(known | newer)
            return answer

    resync = resync_of(Busy(a=["one"]))
    for _ in range(3):
        await resync.once()
    assert resync.cache.newest("FineTuneJob", None) > 3
