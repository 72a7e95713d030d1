"""What a visit does when the cluster changes, or does not answer, between two of its requests."""

from collections.abc import Callable
from typing import Any

from aiohttp import ClientConnectionError

from builders import job, stored
from finetune_operator.cache import Cache
from finetune_operator.children import Children
from finetune_operator.errors import ApiError
from finetune_operator.metrics import Metrics
from finetune_operator.progress import Reports
from finetune_operator.reconcile import Reconciler
from unit.operator.worlds import T0, settings

Body = dict[str, Any]


class ApiServer:
    """One FineTuneJob and an answer to every create."""

    def __init__(self, body: Body, on_create: Callable[[str, Body], Body]) -> None:
        self.body, self.on_create, self.written = body, on_create, list[Body]()

    async def create(self, kind: str, body: Body) -> Body:
        return self.on_create(kind, body)

    async def write_status(self, namespace: str, name: str, version: str, status: Body) -> Body:
        self.written.append(status)
        return versioned(self.body, int(version) + 1) | {"status": status}


def versioned(body: Body, version: int) -> Body:
    return body | {"metadata": body["metadata"] | {"resourceVersion": str(version)}}


def reconciler(server: Any, cache: Cache) -> Reconciler:
    children = Children(server, cache, settings(), lambda: "")
    metrics = Metrics(cache, lambda: 0)
    return Reconciler(cache, server, children, Reports(), metrics, settings(), clock=lambda: T0)


async def test_a_job_created_anew_under_its_name_inherits_nothing_of_a_refused_attempt() -> None:
    cache, old, new = Cache(), stored(job(), uid="old-uid-0"), stored(job(), uid="new-uid-0")

    def refuse(kind: str, body: Body) -> Body:
        cache.put_job(versioned(new, 9))
        raise ApiError("POST", kind, 403, "exceeded quota")

    server = ApiServer(old, refuse)
    await reconciler(server, cache)(cache.put_job(old))
    assert [status["attempt"] for status in server.written] == [1]
    assert "status" not in cache.jobs["default", "movie-sentiment"]  # type: ignore[index]


async def test_an_event_that_nobody_takes_does_not_stand_in_the_way() -> None:
    cache, body, made = Cache(), stored(job()), list[str]()

    def without_events(kind: str, made_body: Body) -> Body:
        if kind == "Event":
            raise ClientConnectionError
        made.append(kind)
        return versioned(made_body, 2) | {
            "metadata": made_body["metadata"] | {"uid": "u", "resourceVersion": "2"}
        }

    look_again = await reconciler(ApiServer(body, without_events), cache)(cache.put_job(body))
    assert made == ["ConfigMap", "PersistentVolumeClaim", "Job"]
    assert look_again == 15
