"""What is deleted of a finished job: what is there, whatever numbers its status and its Jobs carry.

Of ConfigMaps, those that a Job mounts: of large runs, and of an earlier operator.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from builders import LARGE_OBJECTIVE, UID, job, stored
from finetune_core.plan.effective import resolve
from finetune_core.plan.reading import parse
from finetune_core.plan.workload import plan
from finetune_operator.cache import Cache
from finetune_operator.children import Children
from finetune_operator.errors import AlreadyExistsError
from mounted import files_in
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

    async def create(self, kind: str, body: Body) -> Body:
        name = body["metadata"]["name"]
        if (kind, name) in self.objects:
            raise AlreadyExistsError("POST", name, 409, "exists")
        added = {"uid": f"{kind}-{name}", "resourceVersion": "1"}
        self.objects[kind, name] = body | {"metadata": body["metadata"] | added}
        return self.objects[kind, name]

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        self.requests["delete"] += 1
        del self.objects[kind, name]


def finished(attempt: int, recorded: list[int]) -> Body:
    attempts = [{"number": number} for number in recorded]
    return stored(job()) | {"status": {"attempt": attempt, "attempts": attempts}}


def made(server: ApiServer, cache: Cache, attempts: list[int], *, large: bool = False) -> None:
    """The Jobs of these attempts, and the ConfigMaps of large ones."""
    for number in attempts:
        of = planned(job(**({"objective": LARGE_OBJECTIVE} if large else {})), number)
        for body in filter(None, (of.job, of.config_map)):
            kind = body["kind"]
            body["metadata"] |= {"uid": f"{kind}-{number}", "resourceVersion": "1"}
            server.objects[kind, body["metadata"]["name"]] = body
            if kind == "Job":
                cache.put_child("Job", body)


def children_of(server: ApiServer, cache: Cache) -> Children:
    return Children(server, cache, settings(), lambda: "CA")  # type: ignore[arg-type]


async def delete_all(server: ApiServer, cache: Cache, body: Body) -> None:
    await children_of(server, cache).delete_all(parse(body))


@pytest.mark.parametrize("large", [False, True])
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
    attempt: int, recorded: list[int], existing: list[int], large: bool
) -> None:
    server, cache, body = ApiServer(), Cache(), finished(attempt, recorded)
    cache.put_finetunejob(body)
    made(server, cache, existing, large=large)
    await delete_all(server, cache, body)
    assert server.objects == {}
    of_one = 2 if large else 1
    assert server.requests["delete"] == of_one * len(existing)
    assert server.requests["get"] == of_one * len(existing) + 2 * len({*recorded} - {*existing})


async def test_hundreds_of_jobs_are_deleted_some_at_a_time() -> None:
    server, cache, body = ApiServer(), Cache(), finished(1, [])
    cache.put_finetunejob(body)
    made(server, cache, list(range(1, 201)), large=True)
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


@pytest.mark.parametrize(("large", "requests"), [(False, {"delete": 1}), (True, {"get": 1, "delete": 2})])
async def test_to_stop_an_attempt_costs_no_request_for_a_config_map_that_it_does_not_have(
    large: bool, requests: dict[str, int]
) -> None:
    server, cache = ApiServer(), Cache()
    made(server, cache, [1], large=large)
    await children_of(server, cache).stop_attempt(parse(stored(job())), 1)
    assert server.objects == {}
    assert server.requests == requests


async def test_the_config_map_of_a_preflight_is_made_again_as_its_pod_knows_it() -> None:
    """Though the configuration would fit into the pod now, and a volume that the pod does not mount is bound."""
    server, cache = ApiServer(), Cache()
    of = parse(stored(job(objective=LARGE_OBJECTIVE, resources={"gpusPerNode": 0})))
    resolved, children = resolve(of, settings()), children_of(server, cache)
    await children.create_preflight(of, resolved, 1)
    (key,) = [key for key in server.objects if key[0] == "ConfigMap"]
    first = server.objects.pop(key)
    claim = resolved.output_uri.removeprefix("pvc://").partition("/")[0]
    server.objects["PersistentVolumeClaim", claim] = {"status": {"phase": "Bound"}}
    await children.create_preflight(of, resolved, 1)
    assert server.objects[key]["data"] == first["data"]
    small = replace(of, spec=parse(stored(job(resources={"gpusPerNode": 0}))).spec)
    server.objects.pop(key)
    await children.create_preflight(small, resolve(small, settings()), 1)
    assert key in server.objects


async def test_the_config_map_of_an_earlier_operator_is_made_again_and_deleted() -> None:
    """Its attempts have one however small their configuration is."""
    of, given = parse(stored(job())), settings()
    earlier = plan(of, resolve(of, given), 1, given, "CA", in_config_map=True)
    server, cache = ApiServer(), Cache()
    cache.put_child("Job", await server.create("Job", earlier.job))
    children, name = children_of(server, cache), earlier.job["metadata"]["name"]
    await children.create_attempt(of, resolve(of, given), 1)
    again = server.objects["ConfigMap", name]
    assert files_in(earlier.job["spec"]["template"], again) == files_in(
        earlier.job["spec"]["template"], earlier.config_map
    )
    await children.stop_attempt(of, 1)
    assert [kind for kind, _ in server.objects] == ["PersistentVolumeClaim"]
