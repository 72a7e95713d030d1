"""SIGKILL right before and right after every write of a whole life: the same end, the same objects, nothing twice."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from faults.rig import Restarts, Rig, rig
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import CHILDREN, CLAIMS, CONFIG_MAPS, JOBS, World
from integration.test_operator_restart import essence

Json = dict[str, Any]

_TRIES = 4
_MEASURED = ("deviceSeconds", "savedSeconds")


def succeeds(pod: Json) -> int | None:
    return 0


@dataclass(frozen=True)
class Life:
    """A spec and how its pods end."""

    spec: Json
    script: Callable[[Json], int | None] = succeeds

    def moments(self, number: int) -> tuple[bool, ...]:
        """Before and after a write; of long lives one of them in turn, as after one write is before the next."""
        return (number % 2 == 0,) if "search" in self.spec or "ensemble" in self.spec else (False, True)


LIVES = {
    "plain": Life({}),
    "checked": Life({"preflight": "Required"}),
}


def family(world: World, name: str) -> list[Json]:
    """The job and its runs."""
    uid = world.job(name)["metadata"]["uid"]
    runs = world.rest.items(world.at(JOBS), f"finetune.dev/parent-uid={uid}")
    return [world.job(name), *sorted(runs, key=lambda one: str(one["metadata"]["name"]))]


def outcome(world: World, name: str) -> Json:
    """What a life came to, without names, times and uids."""
    found = family(world, name)
    counts: Counter[str] = Counter()
    for one in found:
        for path in (CHILDREN, CONFIG_MAPS, CLAIMS):
            counts[path] += len(
                world.rest.items(world.at(path), f"finetune.dev/job-uid={one['metadata']['uid']}")
            )
    statuses = [essence(one["status"]) for one in found]
    for status in statuses:
        trials = status.get("trials") or {}
        for measured in _MEASURED:
            trials.pop(measured, None)
        for run in [*trials.get("latest", []), trials.get("best") or {}, *(status.get("members") or [])]:
            run.pop("name", None)
        (status.get("progress") or {}).pop("lastUpdateTime", None)
    return {"statuses": statuses, "counts": counts}


def differences(wanted: Any, found: Any, place: str = "") -> list[str]:
    """Where two outcomes differ."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        parts = [(f"{place}.{key}", wanted.get(key), found.get(key)) for key in {*wanted, *found}]
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        parts = [(f"{place}[{n}]", *pair) for n, pair in enumerate(zip(wanted, found, strict=True))]
    else:
        return [] if wanted == found else [f"{place}: {wanted} became {found}"]
    return [text for where, one, other in parts for text in differences(one, other, where)]


def run(found: Rig, name: str, life: Life) -> Json:
    """A whole life."""
    found.kubelet.script = life.script
    found.world.apply(name, **life.spec)
    found.succeeds(name)
    found.settles()
    return outcome(found.world, name)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", LIVES)
def test_a_life_with_a_crash_at_any_write_ends_as_the_undisturbed_one(
    cluster: ApiServer, tmp_path: Path, kind: str
) -> None:
    life = LIVES[kind]
    with rig(cluster, tmp_path, f"crash-{kind}") as found:
        proxy = found.proxy
        proxy.counts = lambda write: "/events" not in write
        proxy.disarm()
        wanted = run(found, "undisturbed", life)
        total = len(proxy.writes)
        assert total >= 5, proxy.writes
        with Restarts(found.operator) as restarts:
            for number in range(1, total + 1):
                for after in life.moments(number):
                    names = [
                        f"{'after' if after else 'before'}-{number}-{chance}" for chance in range(_TRIES)
                    ]
                    struck = any(_struck(found, one, life, number, after, wanted) for one in names)
                    # observations that meet in one visit cost one write fewer, so the last number may not come
                    assert struck or number > total - 2, (
                        f"{_TRIES} lives did without write {number} of {total}"
                    )
            assert restarts.count >= total - 2
        found.rests()


def _struck(found: Rig, name: str, life: Life, number: int, after: bool, wanted: Json) -> bool:
    dead = threading.Event()

    def strike() -> None:
        found.operator.process.kill()
        dead.set()

    found.proxy.arm(number, strike, after=after)
    came_to = run(found, name, life)
    struck = dead.is_set()
    found.proxy.disarm()
    assert not (other := differences(wanted, came_to)), f"{name}: {other}"
    found.observer.check()
    found.operator.ready() if struck else None
    return struck
