"""The queue, on a real event loop with short times: what is asked for is run, and never twice at the same time."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from types import SimpleNamespace

import pytest

from finetune_operator import workqueue
from finetune_operator.cache import Key
from finetune_operator.workqueue import TurnsQueue, WorkQueue

A, B = Key("ns", "a"), Key("ns", "b")


@asynccontextmanager
async def working(
    run: Callable[[Key], Awaitable[float | None]], workers: int = 4
) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(run, workers, lambda: None, lambda _: None)
    task = asyncio.create_task(queue.work())
    yield queue
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(question: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not question():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_a_key_is_never_run_twice_at_the_same_time_but_others_are() -> None:
    active: Counter[Key] = Counter()
    most: Counter[Key] = Counter()
    together = 0
    done = 0

    async def run(key: Key) -> None:
        nonlocal done, together
        active[key] += 1
        most[key] = max(most[key], active[key])
        together = max(together, active.total())
        await asyncio.sleep(0.002)
        active[key] -= 1
        done += 1

    async with working(run) as queue:
        for _ in range(20):
            queue.add(A)
            queue.add(B)
            await asyncio.sleep(0.001)
        await until(lambda: not len(queue) and not active.total())
    assert most == {A: 1, B: 1}
    assert together == 2
    assert done > 2


async def test_a_key_added_while_it_runs_is_run_once_more() -> None:
    began, go_on, runs = asyncio.Event(), asyncio.Event(), 0

    async def run(_: Key) -> None:
        nonlocal runs
        runs += 1
        began.set()
        await go_on.wait()

    async with working(run) as queue:
        queue.add(A)
        await began.wait()
        for _ in range(5):
            queue.add(A)
        go_on.set()
        await until(lambda: runs == 2)
        await asyncio.sleep(0.02)
    assert runs == 2


async def test_a_key_that_waits_already_waits_once() -> None:
    queue = WorkQueue(lambda _: asyncio.sleep(0), 1, lambda: None, lambda _: None)
    for _ in range(5):
        queue.add(A)
    assert len(queue) == 1


async def test_a_failed_run_is_tried_again_after_growing_pauses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("finetune_operator.workqueue._FIRST_PAUSE", 0.01)
    caplog.set_level(logging.CRITICAL)
    times: list[float] = []

    async def run(_: Key) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) < 5:
            raise OSError("no")

    async with working(run) as queue:
        queue.add(A)
        await until(lambda: len(times) == 5)
        await asyncio.sleep(0.05)
    gaps = [after - before for before, after in pairwise(times)]
    assert len(times) == 5
    assert [gap >= 0.8 * 0.01 * 2**n for n, gap in enumerate(gaps)] == [True] * 4


async def test_one_that_fails_for_ever_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    good = asyncio.Event()

    async def run(key: Key) -> None:
        if key == A:
            raise ValueError("poison")
        good.set()

    async with working(run, workers=1) as queue:
        queue.add(A)
        queue.add(B)
        await asyncio.wait_for(good.wait(), 60)


async def test_a_key_is_looked_at_again_when_it_asked_to_be() -> None:
    runs = 0

    async def run(_: Key) -> float | None:
        nonlocal runs
        runs += 1
        return 0.01 if runs < 3 else None

    async with working(run) as queue:
        queue.add(A)
        await until(lambda: runs == 3)
        await asyncio.sleep(0.03)
    assert runs == 3


async def test_the_newest_look_replaces_the_timers_of_the_ones_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs, now = 0, 0.0
    monkeypatch.setattr(workqueue, "time", SimpleNamespace(monotonic=lambda: now))

    async def run(_: Key) -> float | None:
        nonlocal runs
        runs += 1
        return 0.1 if runs <= 20 else None

    async with working(run) as queue:
        for wanted in range(1, 21):  # twenty events, each of which asks for a look in 0.1 s
            queue.add(A)
            await until(lambda wanted=wanted: runs >= wanted)  # type: ignore[misc]
        now = 1.0
        await until(lambda: runs > 20)
        await asyncio.sleep(0.3)
    assert runs == 21, "one timer, not twenty"


async def test_replaced_timers_do_not_pile_up() -> None:
    queue = WorkQueue(lambda _: asyncio.sleep(0), 1, lambda: None, lambda _: None)
    for _ in range(5000):
        queue.add_after(A, 3600)
    assert len(queue._timers) < 200


async def test_an_earlier_timer_overtakes_a_later_one() -> None:
    order: list[Key] = []

    async def run(key: Key) -> None:
        order.append(key)

    async with working(run) as queue:
        queue.add_after(A, 0.05)
        queue.add_after(B, 0.01)
        await until(lambda: len(order) == 2)
    assert order == [B, A]


async def test_a_reconcile_that_does_not_end_gives_its_worker_back_and_is_retried() -> None:
    runs: Counter[Key] = Counter()

    async def run(key: Key) -> None:
        runs[key] += 1
        if key == A:
            await asyncio.Event().wait()

    queue = WorkQueue(run, 1, lambda: None, lambda _: None, time_limit=0.05)
    task = asyncio.create_task(queue.work())
    queue.add(A)
    queue.add(B)
    await until(lambda: runs[B] == 1)
    await until(lambda: runs[A] == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_namespace_with_thousands_of_jobs_delays_another_s_job_by_one_turn() -> None:
    order: list[Key] = []

    async def run(key: Key) -> None:
        order.append(key)
        if len(order) == 100:  # the other team submits its job amid the flood
            queue.add(other)
        await asyncio.sleep(0)

    other = Key("small-team", "job")
    async with working(run, workers=1) as queue:
        for number in range(5000):
            queue.add(Key("large-team", f"job-{number}"))
        await until(lambda: other in order)
    assert order.index(other) <= 101


async def test_namespaces_take_turns_and_each_keeps_its_order() -> None:
    queue = TurnsQueue()
    for name in ("a1", "a2", "a3", "b1", "c1", "b2"):
        queue.put(Key(name[0], name))
    assert [(await queue.get()).name for _ in range(4)] == ["a1", "b1", "c1", "a2"]
    queue.put(Key("c", "c2"))
    assert [(await queue.get()).name for _ in range(3)] == ["b2", "a3", "c2"]


async def taken(queue: TurnsQueue, number: int) -> list[str]:
    return [(await queue.get()).name for _ in range(number)]


async def test_urgent_keys_go_first_and_one_of_eight_is_another_one() -> None:
    queue = TurnsQueue()
    for number in range(3):
        queue.put(Key("ns", f"other-{number}"))
    for number in range(16):
        queue.put(Key("ns", f"new-{number}"), urgent=True)
    names = await taken(queue, 19)
    assert names == [
        *(f"new-{number}" for number in range(7)),
        "other-0",
        *(f"new-{number}" for number in range(7, 14)),
        "other-1",
        "new-14",
        "new-15",
        "other-2",
    ]


async def test_another_team_s_key_comes_in_its_turn_whatever_it_has_to_tell() -> None:
    queue = TurnsQueue()
    for number in range(100):
        queue.put(Key("flood", f"new-{number}"), urgent=True)
        queue.put(Key("flood", f"other-{number}"))
    await taken(queue, 10)
    queue.put(Key("small-team", "runs"))
    assert "runs" in await taken(queue, 2)
    queue.put(Key("small-team", "new"), urgent=True)
    assert "new" in await taken(queue, 2)


async def test_a_flood_of_what_jobs_have_to_tell_takes_no_turn_from_another_team_s_new_jobs() -> None:
    queue = TurnsQueue()
    for number in range(100):
        queue.put(Key("busy", f"other-{number}"))
    for number in range(5):
        queue.put(Key("small-team", f"new-{number}"), urgent=True)
    names = await taken(queue, 10)
    assert [name for name in names if name.startswith("new")] == [f"new-{number}" for number in range(5)]


async def test_it_is_calm_while_no_urgent_key_waits() -> None:
    queue = TurnsQueue()
    assert queue.calm.is_set()
    queue.put(A)
    assert queue.calm.is_set()
    queue.put(B, urgent=True)
    assert not queue.calm.is_set()
    assert await taken(queue, 1) == ["b"]
    assert queue.calm.is_set()


async def test_what_is_urgent_is_asked_when_a_key_is_added_again() -> None:
    order: list[Key] = []
    waits = {B}

    async def run(key: Key) -> float | None:
        order.append(key)
        return None

    queue = WorkQueue(run, 1, lambda: None, lambda _: None, urgent=lambda key: key in waits)
    for key in (A, B):
        queue.add(key)
    task = asyncio.create_task(queue.work())
    await until(lambda: order == [B, A])
    waits = {A}
    for key in (B, A):
        queue.add(key)
    await until(lambda: order == [B, A, A, B])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_key_is_given_to_one_worker_and_none_is_lost_when_a_waiting_one_ends() -> None:
    queue = TurnsQueue()
    ended, waiting = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    ended.cancel()
    queue.put(A)
    assert await asyncio.wait_for(waiting, 60) == A
    assert not queue._namespaces


async def test_a_standby_keeps_no_keys() -> None:
    async def run(_: Key) -> None: ...

    leads = False
    queue = WorkQueue(run, 1, lambda: None, lambda _: None, wanted=lambda: leads)
    queue.add(A)
    assert len(queue) == 0
    leads = True
    queue.add(A)
    assert len(queue) == 1
