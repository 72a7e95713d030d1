"""A job whose pods end as soon as they run, for an hour: what it costs the API server does not grow with it."""

from datetime import datetime
from typing import Any

import pytest

from builders import job
from finetune_operator.event_budget import REFILL
from finetune_operator.handlers import update
from unit.operator import worlds
from unit.operator.model_cluster import Body, ModelCluster
from unit.operator.test_reconcile_histories import Operator

HOUR = 3600
LONGEST_PAUSE = 300
OF_AN_ATTEMPT = 4
"""Writes: the status as it begins, its Job, the status as it ends, and one of a start that is slow."""
EVENTS = HOUR // 2 / REFILL + 1
"""Of half an hour, whatever happens in it."""


class Counting(ModelCluster):
    """A cluster that keeps Events as well."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Body] = []

    async def create(self, kind: str, body: Body) -> Body:
        if kind == "Event":
            self.events.append(body)
        return await super().create(kind, body)


async def a_second(operator: Operator, cluster: ModelCluster, code: int, disrupted: str | None) -> None:
    for kind, waiting in cluster.watch.waiting.items():
        events, waiting[:] = list(waiting), []
        for event, body in events:
            for key in update(operator.cache, kind, event, body):
                operator.add(key)
    await operator.visit()
    cluster.controllers()
    cluster.start_pods()
    for pod in cluster.of("Pod"):
        if pod["status"]["phase"] == "Running":
            cluster.end_pod(pod, code, disrupted=disrupted)
    cluster.now += 1


@pytest.mark.parametrize(
    ("code", "disrupted", "spec"),
    [(137, "EvictionByEvictionAPI", {}), (75, None, {}), (139, None, {"retry": {"limit": 100}})],
    ids=["evicted", "interrupted", "crashes with many retries"],
)
async def test_a_job_that_flaps_costs_little_in_any_hour(
    code: int, disrupted: str | None, spec: dict[str, Any]
) -> None:
    cluster = Counting()
    operator = Operator(cluster, worlds.settings())
    cluster.put("FineTuneJob", job("flaps", resources={"gpusPerNode": 0}, **spec))
    for _ in range(3 * HOUR // 2):  # until the pauses are at their longest, and the first Events are used up
        await a_second(operator, cluster, code, disrupted)
    cluster.writes.clear()
    cluster.events.clear()
    before = cluster.objects["FineTuneJob", "flaps"]["status"]["attempt"]
    for _ in range(HOUR // 2):
        await a_second(operator, cluster, code, disrupted)
    status = cluster.objects["FineTuneJob", "flaps"]["status"]
    attempts = status["attempt"] - before
    assert 1 <= attempts <= HOUR // 2 // LONGEST_PAUSE
    assert len(cluster.writes) <= OF_AN_ATTEMPT * (attempts + 1)
    assert len(cluster.events) <= EVENTS
    newest = {event["reason"]: datetime.fromisoformat(event["lastTimestamp"]) for event in cluster.events}
    for reason in ("Accepted", "WaitingToRetry"):
        assert (operator.reconciler.clock() - newest[reason]).total_seconds() <= 2 * REFILL + LONGEST_PAUSE
    assert not status.get("completionTime")
