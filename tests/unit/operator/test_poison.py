"""Objects of any content: the operator reads each without an error that nobody expects, and serves the next job.

The API server keeps the types of Jobs and pods, so their values are changed within them; a FineTuneJob may have been
stored by another version of the CRD, so its spec and status may be anything.
"""

import copy
import random
from typing import Any

import pytest

from builders import job
from finetune_operator.handlers import update
from unit.operator.model_cluster import Body, ModelCluster
from unit.operator.test_reconcile_histories import RATE, SETTINGS, Operator, report_of

Place = tuple[str | int, ...]

_TEXTS = [
    "",
    "\0",
    "[" * 4000,
    '{"exitCode": ' + "9" * 3000 + "}",
    "NaN",
    "null",
    "[]",
    "{}",
    '"x"',
    "é\u2028",
    "x" * 4096,
    "-1",
    "99999",
]
_TEXTS += ['{"exitCode":0,"model":{}}', '{"progress":{"step":-1}}', '{"exitCode":1e999}', '{"epochs":[null]}']
_TIMES = [
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "1969-12-31T23:59:59Z",
    "2026-02-30T00:00:00Z",
    "now",
]
_NUMBERS = [-(2**31), -1, 0, 1, 255, 256, 2**31 - 1]
_ANYTHING: list[Any] = [
    None,
    True,
    0,
    -1,
    2**63,
    1e308,
    "",
    "x",
    [],
    {},
    [None],
    [[]],
    {"x": None},
    [{}],
    "9999-12-31T23:59:59Z",
]
_IDENTITY = {
    "uid",
    "name",
    "namespace",
    "resourceVersion",
    "generation",
    "ownerReferences",
    "creationTimestamp",
}


def places(value: Any, before: Place = ()) -> list[Place]:
    """Every place in a body but what identifies it."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = [(key, one) for key, one in value.items() if before != ("metadata",) or key not in _IDENTITY]
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [place for key, one in items for place in [(*before, key), *places(one, (*before, key))]]


def poisoned(kind: str, body: Body, chance: random.Random) -> Body:
    """The same object with one value changed."""
    body = copy.deepcopy(body)
    parts = ("spec", "status") if kind == "FineTuneJob" else ("metadata", "spec", "status")
    able = [place for place in places(body) if place[0] in parts and place != ("metadata",)]
    *way, last = chance.choice(able)
    at: Any = body
    for step in way:
        at = at[step]
    at[last] = _junk(at[last], chance, typed=kind != "FineTuneJob")
    return body


def _junk(value: Any, chance: random.Random, *, typed: bool) -> Any:
    if not typed:
        return chance.choice([*_ANYTHING, *_TEXTS, *_TIMES])
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice(_NUMBERS)
    if isinstance(value, str):
        return chance.choice([*_TEXTS, *_TIMES] if value[:2] == "20" else _TEXTS)
    return type(value)()


async def life_goes_on(operator: Operator, cluster: ModelCluster, rounds: int) -> None:
    for _ in range(rounds):
        for kind, waiting in cluster.watch.waiting.items():
            events, waiting[:] = list(waiting), []
            for event, body in events:
                for key in update(operator.cache, kind, event, body):
                    operator.add(key)
        await operator.visit()
        cluster.controllers()
        cluster.start_pods()


SPECS: list[Body] = [
    {},
    {"activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 5},
    {"preflight": "Required"},
    {
        "search": {
            "parameters": [{"path": RATE, "choice": [0.001, 0.002]}],
            "maxTrials": 2,
            "algorithm": "Grid",
        }
    },
    {"ensemble": {"members": 2}},
]


@pytest.mark.parametrize("kind", ["FineTuneJob", "Job", "Pod"])
@pytest.mark.parametrize("spec", SPECS, ids=["plain", "limits", "checked", "search", "ensemble"])
@pytest.mark.parametrize("restarted", [False, True])
async def test_any_content_of_any_watched_object_is_read(kind: str, spec: Body, restarted: bool) -> None:
    chance = random.Random(f"{kind}{spec}{restarted}")
    for number in range(60):
        cluster = ModelCluster()
        operator = Operator(cluster, SETTINGS)
        cluster.put("FineTuneJob", job("evil", **({"resources": {"gpusPerNode": 0}} | spec)))
        await life_goes_on(operator, cluster, chance.randint(1, 5))
        for pod in cluster.of("Pod"):
            if chance.random() < 0.5 and pod["status"].get("phase") == "Running":
                code = chance.choice([0, 75, 137])
                cluster.end_pod(pod, code, report_of(pod, code))
        cluster.checked = False  # a poisoned status is no history of ours
        for body in cluster.of(kind):
            changed = poisoned(kind, body, chance)
            cluster.change(kind, body["metadata"]["name"], **changed)
        if restarted:
            operator = Operator(cluster, SETTINGS)
            await operator.resync.once()
        cluster.put("FineTuneJob", job("good", resources={"gpusPerNode": 0}))
        await life_goes_on(operator, cluster, 6)
        good = cluster.objects["FineTuneJob", "good"]
        assert good.get("status", {}).get("phase") == "Running", number
