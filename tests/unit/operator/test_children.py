"""What is deleted of a finished job: what is there, whatever numbers its status and its Jobs carry."""

from collections import Counter
from typing import Any

import pytest

from builders import UID, job, stored
from finetune_core.plan.reading import parse
from finetune_operator.cache import Cache
from finetune_operator.children import Children
from unit.operator.worlds import planned, settings

Body = dict[str, Any]


class ApiServer:
    """Objects by kind and name, and a count of the requests."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Body] = {}
        self.requests: Counter[str] = Counter()

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        self.requests["get"] += 1
        return self.objects.get((kind, name))

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        self.requests["delete"] += 1
        del self.objects[kind, name]


def finished(attempt: int, recorded: list[int]) -> Body:
    attempts = [{"number": number} for number in recorded]
    return stored(job()) | {"status": {"attempt": attempt, "attempts": attempts}}


def made(server: ApiServer, cache: Cache, attempts: list[int]) -> None:
    """The Jobs and ConfigMaps of these attempts."""
    for number in attempts:
        of = planned(job(), number)
        for kind, body in (("Job", of.job), ("ConfigMap", of.config_map)):
            added = {"uid": f"{kind}-{number}", "resourceVersion": "1"}
            body["metadata"] |= added
            server.objects[kind, body["metadata"]["name"]] = body
            if kind == "Job":
                cache.put_child("Job", body)


async def delete_all(server: ApiServer, cache: Cache, body: Body) -> None:
    children = Children(server, cache, settings(), lambda: "")  # type: ignore[arg-type]
    await children.delete_all(parse(body))


@pytest.mark.parametrize(
    ("attempt", "recorded", "existing"),
    [
        (99_999, [99_999], []),
        (99_999, [], [99_999]),
        (2, [1, 2], [1, 2]),
        (41, [41], [3, 40, 41]),
        (5, [], []),
    ],
)
async def test_the_work_is_bounded_by_what_exists_and_not_by_a_number(
    attempt: int, recorded: list[int], existing: list[int]
) -> None:
    server, cache, body = ApiServer(), Cache(), finished(attempt, recorded)
    cache.put_finetunejob(body)
    made(server, cache, existing)
    await delete_all(server, cache, body)
    assert server.objects == {}
    assert server.requests["get"] <= 2 * len({*recorded, *existing})


async def test_hundreds_of_jobs_are_deleted_some_at_a_time() -> None:
    server, cache, body = ApiServer(), Cache(), finished(1, [])
    cache.put_finetunejob(body)
    made(server, cache, list(range(1, 201)))
    await delete_all(server, cache, body)
    assert server.requests["delete"] == 100
    assert len(server.objects) == 300


@pytest.mark.parametrize("uid", [None, "another-uid"], ids=["deleted", "created again"])
async def test_nothing_is_deleted_for_a_finetunejob_that_is_gone(uid: str | None) -> None:
    server, cache, body = ApiServer(), Cache(), finished(2, [1, 2])
    if uid:
        cache.put_finetunejob(stored(job(), uid=uid))
    made(server, cache, [1, 2])
    await delete_all(server, cache, body)
    assert server.requests.total() == 0
    assert body["metadata"]["uid"] == UID
