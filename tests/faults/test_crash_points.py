"""SIGKILL right before and right after each kind of write of a whole life: the same end, the same objects, nothing
twice. All lives of a kind go on at the same time, so every crash interrupts the others somewhere else. Kinds of writes
that a plain job has, too, are struck there only.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from builders import LARGE_OBJECTIVE
from faults.crashes import WRITES, Crashes, Point
from faults.rig import Restarts, Rig, rig
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import CHILDREN, CLAIMS, CONFIG_MAPS, JOBS, PATIENCE, World, until
from integration.test_operator_restart import essence

Json = dict[str, Any]

_ROUNDS = 4
_MEASURED = ("deviceSeconds", "savedSeconds")
_ATTEMPT, _OWNER = "finetune.dev/attempt", "finetune.dev/job-name"
_UNKNOWN = 1


@dataclass(frozen=True)
class Life:
    """A spec, and how the first attempt's pod ends."""

    spec: Json = field(default_factory=dict)
    first: int = 0


LIVES = {
    "plain": Life(),
    "large": Life({"objective": LARGE_OBJECTIVE}),
    "checked": Life({"preflight": "Required"}),
    "retried": Life(first=_UNKNOWN),
}


def pods_of(life: Life, world: World) -> Callable[[Json], int | None]:
    """A pod ends when the operator has seen it run."""

    def code(pod: Json) -> int | None:
        labels = pod["metadata"]["labels"]
        attempt = labels.get(_ATTEMPT)
        if attempt is None:
            return 0
        status = world.status(labels[_OWNER])
        if status.get("phase") != "Running" or str(status.get("attempt")) != attempt:
            return None
        return life.first if attempt == "1" else 0

    return code


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


def live(found: Rig, life: Life, names: list[str]) -> list[Json]:
    """Whole lives, all at once; what they came to."""
    found.kubelet.script = pods_of(life, found.world)
    for name in names:
        found.world.apply(name, **life.spec)

    def all_ended() -> bool:
        jobs = [found.world.job(name) for name in names]
        return all((job.get("status") or {}).get("completionTime") for job in jobs)

    until(all_ended, "every life has ended", PATIENCE * (1 + len(names)), log=found.operator)
    found.succeeds(*names)
    found.settles()
    return [outcome(found.world, name) for name in names]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", LIVES)
def test_a_life_with_a_crash_at_any_kind_of_write_ends_as_the_undisturbed_one(
    cluster: ApiServer, tmp_path: Path, kind: str
) -> None:
    life = LIVES[kind]
    with rig(cluster, tmp_path, f"crash-{kind}") as found:
        crashes = Crashes(lambda: found.operator.process.kill())
        found.proxy.add(WRITES, crashes.answer)
        (wanted,) = live(found, life, ["undisturbed"])
        if kind != "plain":
            live(found, LIVES["plain"], ["plain"])
        known = crashes.kinds.get("plain", [])
        kinds = [
            one for one in crashes.kinds["undisturbed"] if one.replace(" of run", " of job") not in known
        ]
        assert len(kinds) >= 3, crashes.kinds
        points = [Point(one, after) for one in kinds for after in (False, True)]
        with Restarts(found.operator) as restarts:
            # two observations that meet in one visit cost one write instead of two
            for round_ in range(_ROUNDS):
                crashes.armed = {f"r{round_}p{number}": point for number, point in enumerate(points)}
                names = list(crashes.armed)
                for point, came_to in zip(points, live(found, life, names), strict=True):
                    assert not (other := differences(wanted, came_to)), f"{point}: {other}"
                found.observer.check()
                points = list(crashes.armed.values())
                if not points:
                    break
            assert not points, f"lives that had no such write: {[str(one) for one in points]}"
            assert restarts.count >= len(kinds)
            found.operator.ready()
        found.rests()
