"""Random faults of every kind from a seed, one after the other, over jobs of every kind."""

import random
import time
from pathlib import Path

from faults.rig import Rig, rig
from faults.script import (
    Answer,
    EventFault,
    code,
    cut,
    cut_in_the_line,
    dropped,
    error,
    garbage,
    late,
    lost_after,
    lost_before,
    page,
    twice,
)
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import CHILDREN, PATIENCE

_PARAMETERS = [{"path": "training.optimizer.learningRate", "choice": [1e-4, 2e-4]}]
_SEARCH = {"parameters": _PARAMETERS, "maxTrials": 2, "algorithm": "Grid", "parallelism": 2}
_WATCHES = ("/finetunejobs", "/batch/v1/.*/jobs", "/pods")
_REQUESTS = ("^POST ", "^PUT .*/status", "^DELETE ", "^GET (?!.*watch=)")
_ANSWERS: list[Answer] = [
    code(409),
    code(429, Retry_After="1"),
    code(500),
    code(503),
    code(504),
    page(502),
    late(1.0),
    lost_after,
    lost_before,
]
_EVENTS: list[EventFault] = [cut, cut_in_the_line, dropped, twice, garbage, error(410), error(500)]
_CHANCE_OF_A_KILL = 0.15


def storm(found: Rig, seed: int, faults: int) -> None:
    """This many faults within a second of each other, then none."""
    chance = random.Random(seed)
    for _ in range(faults):
        if chance.random() < _CHANCE_OF_A_KILL or not found.operator.alive:
            found.kill()
        elif chance.random() < 0.5:
            found.proxy.add(chance.choice(_REQUESTS), chance.choice(_ANSWERS), times=chance.randint(1, 3))
        else:
            watch = f"GET .*{chance.choice(_WATCHES)}\\?.*watch="
            found.proxy.add(watch, event=chance.choice(_EVENTS), times=chance.randint(1, 3))
        time.sleep(chance.uniform(0.1, 1.0))
    found.proxy.heal()
    if not found.operator.alive:
        found.operator.start()


def jobs_survive(server: ApiServer, folder: Path, seed: int, faults: int) -> None:
    """All succeed, and no Job is created twice."""
    with rig(server, folder, f"storm-{seed}") as found:
        names = [found.world.apply(f"plain-{number}") for number in range(3)]
        names.append(found.world.apply("checked", preflight="Required"))
        names.append(found.world.apply("search", search=_SEARCH))
        names.append(found.world.apply("ensemble", ensemble={"members": 2}))
        storm(found, seed, faults)
        found.succeeds(*names, seconds=2 * PATIENCE)
        children = found.world.rest.items(found.world.at(CHILDREN))
        assert len({one["metadata"]["name"] for one in children}) == len(children) == 3 + 2 + 3 + 3
        found.rests()
