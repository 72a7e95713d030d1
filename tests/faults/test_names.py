"""Names are used again, jobs are deleted at every moment, suspended and resumed all the time."""

from typing import Any

import pytest

from faults.rig import Rig
from integration.operator_rig import CHILDREN, JOBS, PODS, until

Json = dict[str, Any]


def gone(found: Rig, name: str) -> None:
    until(lambda: found.world.rest.get(found.world.at(JOBS, name)) is None, f"{name} is gone")


def test_e6_a_name_that_is_used_fifty_times_while_the_old_child_dies(found: Rig) -> None:
    """The pods of those before are still saving when the next one of the name begins."""
    found.kubelet.script, found.kubelet.grace = lambda _: None, 1.0
    uids = []
    for number in range(50):
        found.world.apply("again")
        uids.append(found.world.job("again")["metadata"]["uid"])
        if number % 5 == 0:
            found.world.until_phase("again", "Running")
        elif number % 5 == 1:
            until(lambda: found.world.children("again"), "it has a child")
        found.world.delete("again")
        gone(found, "again")
    found.world.apply("again")
    last = found.world.job("again")["metadata"]["uid"]
    found.kubelet.script = lambda _: 0
    found.succeeds("again")
    status = found.world.status("again")
    assert (status["attempt"], len(status["attempts"])) == (1, 1)
    assert len({*uids, last}) == 51

    def owners() -> set[str]:
        return {
            one["metadata"]["labels"]["finetune.dev/job-uid"]
            for path in (CHILDREN, PODS)
            for one in found.world.rest.items(found.world.at(path))
        }

    until(lambda: owners() == {last}, "the children of the others are gone", log=found.operator)
    found.rests()


_PHASES = ("at-once", "Pending", "Running", "Stopping", "Suspended", "Succeeded", "Failed")


@pytest.mark.parametrize(
    ("phase", "policy"),
    [*((phase, "Background") for phase in _PHASES), ("Running", "Foreground"), ("Running", "Orphan")],
)
def test_e4_e8_a_job_is_deleted_in_a_phase(found: Rig, phase: str, policy: str) -> None:
    found.kubelet.script = lambda _: {"Succeeded": 0, "Failed": 65}.get(phase)
    name = found.world.apply(suspend=phase == "Suspended")
    if phase == "Pending":
        until(lambda: found.world.children(name), "it has a child")
    elif phase == "Stopping":
        found.kubelet.grace = 2.0
        found.world.until_phase(name, "Running")
        found.world.change(name, suspend=True)
        found.world.until_reason(name, "Stopping")
    elif phase != "at-once":
        found.world.until_phase(name, phase)
    found.world.rest("DELETE", found.world.at(JOBS, name) + f"?propagationPolicy={policy}")
    gone(found, name)
    if policy == "Orphan":
        found.settles()
        return
    found.is_empty()
    found.rests()


def test_e3_a_job_that_is_suspended_and_resumed_a_hundred_times(found: Rig) -> None:
    found.kubelet.script = lambda _: None
    name = found.world.apply()
    for suspend in [True, False] * 100:
        found.world.change(name, suspend=suspend)
    found.world.until_phase(name, "Running")
    found.kubelet.script = lambda _: 0
    found.succeeds(name)
    status = found.world.status(name)
    assert not status.get("retries")
    assert not [one for one in status["attempts"] if one.get("counted")]
    found.rests()
