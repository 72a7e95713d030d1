"""Requests are refused, late, cut off, or carried out without an answer: one child each, the same end, no loop."""

import time
from typing import Any

import pytest

from builders import LARGE_OBJECTIVE
from faults.rig import Restarts, Rig
from faults.script import Answer, code, late, lost_after, lost_before, page
from integration.operator_rig import CHILDREN, CLAIMS, CONFIG_MAPS, until

Json = dict[str, Any]


def once_each(found: Rig, names: list[str], *paths: str) -> None:
    """Each job has one Job and one claim, and one of each of these."""
    for path in (CHILDREN, CLAIMS, *paths):
        bodies = found.world.rest.items(found.world.at(path), "finetune.dev/job-name")
        owners = [one["metadata"]["labels"]["finetune.dev/job-name"] for one in bodies]
        assert sorted(owners) == sorted(names), path


def apply(found: Rig, count: int = 4, **spec: Any) -> list[str]:
    return [found.world.apply(f"job-{number}", **spec) for number in range(count)]


_WRITES = ("POST .*/jobs", "POST .*/configmaps", "POST .*/persistentvolumeclaims", "PUT .*/status")


@pytest.mark.parametrize("how", ["lost-after", "lost-before", "409", "500", "504", "429", "html", "late"])
def test_b12_b13_every_second_write_of_each_kind_fails(found: Rig, how: str) -> None:
    answers: dict[str, Answer] = {
        "lost-after": lost_after,
        "lost-before": lost_before,
        "409": code(409),
        "500": code(500),
        "504": code(504, "etcdserver: request timed out"),
        "429": code(429, Retry_After="1"),
        "html": page(502),
        "late": late(1.0),
    }
    rules = {
        write: [found.proxy.add(f"^{write}", answers[how], first=number, times=1) for number in (1, 3, 5)]
        for write in _WRITES
    }
    names = apply(found, objective=LARGE_OBJECTIVE)
    found.succeeds(*names)
    for write, failed in rules.items():
        assert sum(rule.hits for rule in failed) >= 2, write
    found.proxy.heal()
    once_each(found, names, CONFIG_MAPS)
    assert {found.world.status(name)["attempt"] for name in names} == {1}
    found.rests()


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [(code(503), 40), (code(429, Retry_After="5"), 20), (code(401), 20), (page(503), 20)],
    ids=["503", "429", "401", "html"],
)
def test_b2_b3_b14_everything_is_refused_for_a_while(found: Rig, answer: Answer, seconds: float) -> None:
    found.kubelet.script = lambda _: None
    names = apply(found)
    for name in names:
        found.world.until_phase(name, "Running")
    with Restarts(found.operator) as restarts:
        asked = len(found.proxy.requests)
        found.proxy.add(".", answer)
        time.sleep(seconds)
        rate = (len(found.proxy.requests) - asked) / seconds
        found.proxy.heal()
        found.kubelet.script = lambda _: 0
        more = found.world.apply("after")
        found.succeeds(*names, more)
        assert restarts.count <= 2, found.operator.log()
    assert rate < 20, f"{rate} requests a second"
    once_each(found, [*names, more])
    found.rests()


def test_b15_the_right_to_jobs_is_taken_and_given_back(found: Rig) -> None:
    found.proxy.add("POST .*/jobs", code(403, "jobs.batch is forbidden: no right"))
    (name,) = apply(found, 1)
    found.world.until_reason(name, "ChildRefused")
    assert "forbidden" in found.world.condition(name, "Running")["message"]
    found.proxy.add("GET .*/jobs", code(403))
    time.sleep(5)
    assert found.operator.alive
    found.proxy.heal()
    found.succeeds(name, seconds=90)
    once_each(found, [name])


def test_b10_a_continue_token_that_has_expired_is_no_end(found: Rig) -> None:
    """The second page of a LIST is refused with 410 Gone, three times."""
    names = apply(found, 25, suspend=True)
    rule = found.proxy.add("GET .*/finetunejobs.*continue=", code(410), times=3)
    with Restarts(found.operator) as restarts:
        until(lambda: rule.hits == 3, "it was refused", log=found.operator)
        for name in names[:2]:
            found.world.change(name, suspend=False)
        found.succeeds(*names[:2])
        assert restarts.count <= 1
    found.proxy.heal()


def test_b17_storage_that_is_being_initialized_is_waited_for(found: Rig) -> None:
    found.operator.kill()
    rule = found.proxy.add(
        "GET .*/finetunejobs", code(429, "storage is (re)initializing", Retry_After="1"), times=6
    )
    found.operator.start()
    found.operator.ready()
    assert rule.hits == 6
    names = apply(found, 1)
    found.succeeds(*names)


def test_g12_a_slow_api_server_makes_it_slow_and_nothing_else(found: Rig) -> None:
    found.proxy.add("^(GET|POST|PUT|PATCH|DELETE) (?!.*watch=)", late(0.5))
    names = apply(found, 10)
    found.succeeds(*names, seconds=120)
    found.proxy.heal()
    once_each(found, names)
    found.rests()
