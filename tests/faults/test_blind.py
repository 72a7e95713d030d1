"""Watches that say nothing: the comparison finds what they do not tell."""

from faults.rig import Rig
from faults.script import dropped, frozen
from faults.test_watches import KINDS, one_child_each, watch_of
from integration.operator_rig import CHILDREN, until


def test_b5_a_silent_watch_is_noticed_by_comparing(found: Rig) -> None:
    """The connection stays open and tells nothing any more."""
    for kind in KINDS:
        found.proxy.add(watch_of(kind), event=frozen)
    names = [found.world.apply(f"job-{number}") for number in range(3)]
    found.succeeds(*names)
    one_child_each(found, names)


def test_b7_a_deletion_that_no_watch_tells_leaves_no_phantom(found: Rig) -> None:
    found.kubelet.script = lambda _: None
    name = found.world.apply("phantom")
    found.world.until_phase(name, "Running")
    for kind in KINDS:
        found.proxy.add(watch_of(kind), event=dropped)
    child = found.world.children(name)[0]["metadata"]["name"]
    found.world.rest("DELETE", found.world.at(CHILDREN, child) + "?propagationPolicy=Background")
    until(lambda: not found.world.children(name), "the Job is gone")
    until(
        lambda: (found.world.status(name).get("attempt") or 0) >= 2,
        "the next attempt begins",
        log=found.operator,
    )
    found.kubelet.script = lambda _: 0
    found.succeeds(name)
    found.proxy.heal()
