"""SIGKILL right before and right after each kind of write of a whole life: the same end, the same objects, nothing
twice. All lives of a kind go on at the same time, so every crash interrupts the others somewhere else. Kinds of writes
that a simpler life has, too, are struck there only.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from faults.crashes import WRITES, Crashes, Point
from faults.lives import LIVES, live
from faults.rig import Restarts, rig
from finetune_cluster.apiserver import ApiServer

_ROUNDS = 4
_WAITS = re.compile(": Pending (?!Accepted|Preflight|Stopping|WaitingToRetry)")
"""Whether a job says what it waits for depends on how busy the machine is: a life may do without such a write."""


def differences(wanted: Any, found: Any, place: str = "") -> list[str]:
    """Where two outcomes differ."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        parts = [(f"{place}.{key}", wanted.get(key), found.get(key)) for key in {*wanted, *found}]
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        parts = [(f"{place}[{n}]", *pair) for n, pair in enumerate(zip(wanted, found, strict=True))]
    else:
        return [] if wanted == found else [f"{place}: {wanted} became {found}"]
    return [text for where, one, other in parts for text in differences(one, other, where)]


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
        if life.simpler:
            live(found, LIVES[life.simpler], ["simpler"])
        known = crashes.kinds.get("simpler", [])
        kinds = [
            one for one in crashes.kinds["undisturbed"] if one.replace(" of run", " of job") not in known
        ]
        assert kinds, crashes.kinds
        points = [Point(one, after) for one in kinds for after in (False, True)]
        with Restarts(found.operator) as restarts:
            # two observations that meet in one visit cost one write instead of two
            for round_ in range(_ROUNDS):
                crashes.armed = {f"r{round_}p{number}": point for number, point in enumerate(points)}
                names = list(crashes.armed)
                for point, came_to in zip(points, live(found, life, names), strict=True):
                    assert not (other := differences(wanted, came_to)), f"{point}: {other}"
                found.observer.check()
                points = [point for point in crashes.armed.values() if not _WAITS.search(point.kind)]
                if not points:
                    break
            assert not points, f"lives that had no such write: {[str(one) for one in points]}"
            assert restarts.count >= len(kinds)
            found.operator.ready()
        found.rests()
