"""API server and etcd are killed, started again, and put back to a backup, while jobs run."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.control_plane import API_SERVER, CONTROLLERS, ETCD, ControlPlane, control_plane
from faults.rig import Restarts, Rig, rig
from integration.operator_rig import CHILDREN, until

Json = dict[str, Any]

_NAMES = [f"job-{number}" for number in range(4)]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


def wait(_: Json) -> int | None:
    """Every pod runs on."""
    return None


def running(found: Rig, names: list[str]) -> None:
    found.kubelet.script = wait
    for name in names:
        found.world.apply(name)
    for name in names:
        found.world.until_phase(name, "Running")


def one_child_each(found: Rig, names: list[str]) -> None:
    children = found.world.rest.items(found.world.at(CHILDREN))
    owners = [one["metadata"]["labels"]["finetune.dev/job-name"] for one in children]
    assert sorted(owners) == sorted(names)


@pytest.mark.parametrize("what", [[API_SERVER], [ETCD], [API_SERVER, ETCD]], ids=["api", "etcd", "both"])
def test_b1_a_control_plane_that_is_killed_and_comes_back_loses_nothing(
    plane: ControlPlane, tmp_path: Path, what: list[str]
) -> None:
    with rig(plane.server, tmp_path, f"back-{len(what)}-{what[0]}") as found:
        running(found, _NAMES)
        plane.kill(*what)
        time.sleep(15)
        plane.start(*reversed(what))
        found.kubelet.script = lambda _: 0
        more = [f"after-{number}" for number in range(2)]
        for name in more:
            found.world.apply(name)
        found.succeeds(*_NAMES, *more)
        one_child_each(found, [*_NAMES, *more])
        found.rests()


@pytest.mark.parametrize("by", ["comparison", "lease"])
def test_b18_etcd_that_is_restored_from_a_backup_is_noticed_and_jobs_from_before_are_served(
    plane: ControlPlane, tmp_path: Path, by: str
) -> None:
    space = f"restored-by-{by}"
    elects = {"lease": f"{space}/operator", "identity": "one", "resync_interval": 600.0}
    settings: Json = elects if by == "lease" else {"resync_interval": 2.0}
    with rig(plane.server, tmp_path, space, **settings) as found, Restarts(found.operator) as restarts:
        running(found, _NAMES)
        plane.kill(CONTROLLERS, API_SERVER, ETCD)
        plane.back_up()
        plane.start(ETCD, API_SERVER, CONTROLLERS)
        found.kubelet.script = lambda _: 0
        found.succeeds(*_NAMES)
        for name in (lost := [f"lost-{number}" for number in range(4)]):
            found.world.apply(name)
        found.succeeds(*lost)
        before = restarts.count
        plane.kill(CONTROLLERS, API_SERVER, ETCD)
        found.kubelet.script = wait
        plane.restore()
        found.observer.forget()
        plane.start(ETCD, API_SERVER, CONTROLLERS)
        until(lambda: restarts.count > before, "the operator begins anew", log=found.operator)
        log = found.operator.log(characters=10**6)
        assert "etcd was restored from a backup" in log or (by == "lease" and "could not be renewed" in log)
        # a Lease that is not renewed for ten seconds ends the process too
        found.operator.ready()
        found.world.change(_NAMES[0], suspend=True)
        found.world.until_phase(_NAMES[0], "Suspended")
        found.world.change(_NAMES[0], suspend=False)
        found.kubelet.script = lambda _: 0
        found.world.apply("new")
        found.succeeds(*_NAMES, "new")
        if by == "lease":
            found.settles()  # its renewals are writes
        else:
            found.rests()
