"""Watches that say nothing, and an API server that is behind: the comparison finds what they do not tell."""

import json

from faults.rig import Restarts, Rig
from faults.script import delayed, dropped, frozen, stale
from faults.test_watches import KINDS, one_child_each, watch_of
from integration.operator_rig import CHILDREN, JOBS, PODS, until


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


def test_b9_a_restart_against_an_api_server_that_is_behind_starts_nothing_twice(found: Rig) -> None:
    """Its LISTs are of the moment before any child was created, and its watches are late."""
    found.kubelet.script = lambda _: None
    found.operator.kill()
    names = [found.world.apply(f"job-{number}") for number in range(3)]
    for path in (JOBS, CHILDREN, PODS):
        at = found.world.at(path)
        found.proxy.kept[at] = json.dumps(found.world.rest("GET", at)).encode()
    found.operator.start()
    for name in names:
        found.world.until_phase(name, "Running")
    before = {one["metadata"]["uid"] for one in found.world.rest.items(found.world.at(CHILDREN))}
    found.operator.kill()
    behind = [found.proxy.add(f"^GET {at}(?!.*watch=)", stale) for at in found.proxy.kept]
    for kind in KINDS:
        found.proxy.add(watch_of(kind), event=delayed(1.0))
    found.proxy.disarm()
    with Restarts(found.operator):
        until(lambda: all(rule.hits for rule in behind), "it has listed", log=found.operator)
        until(lambda: len(found.proxy.writes) >= len(names), "it wants to write", log=found.operator)
        found.settles()
        assert {one["metadata"]["uid"] for one in found.world.rest.items(found.world.at(CHILDREN))} == before
        found.proxy.heal()
        found.kubelet.script = lambda _: 0
        found.succeeds(*names)
    one_child_each(found, names)
    assert {found.world.status(name)["attempt"] for name in names} == {1}
    found.rests()
