"""Events of watches are lost, late, doubled, out of order or no events: every job ends, and nothing happens twice."""

from typing import Any

import pytest

from faults.rig import Rig
from faults.script import (
    EventFault,
    cut,
    cut_in_the_line,
    delayed,
    dropped,
    error,
    garbage,
    rewound,
    twice,
)
from integration.operator_rig import CHILDREN

Json = dict[str, Any]

KINDS = {"FineTuneJob": "/finetunejobs", "Job": "/batch/v1/.*/jobs", "Pod": "/pods"}
_EVENTS = {"FineTuneJob": (6, 3), "Job": (4, 2), "Pod": (6, 3)}
"""Of each kind, at least as many as a life has, and how many every life has for certain."""


def one_child_each(found: Rig, names: list[str]) -> None:
    owners = [
        one["metadata"]["labels"]["finetune.dev/job-name"]
        for one in found.world.rest.items(found.world.at(CHILDREN))
    ]
    assert sorted(owners) == sorted(names)


def watch_of(kind: str) -> str:
    return f"GET .*{KINDS[kind]}\\?.*watch="


@pytest.mark.parametrize("kind", KINDS)
def test_b6_any_one_event_is_lost(found: Rig, kind: str) -> None:
    """All at once: the first job loses its first event of this kind, the second its second …"""
    most, certain = _EVENTS[kind]
    names = [f"loses-{number}" for number in range(1, most + 1)]
    rules = [
        found.proxy.add(watch_of(kind), event=dropped, name=name, first=number, times=1)
        for number, name in enumerate(names, 1)
    ]
    for name in names:
        found.world.apply(name)
    found.succeeds(*names)
    one_child_each(found, names)
    assert sum(rule.hits for rule in rules) >= certain, [rule.hits for rule in rules]
    found.rests()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("how", "times"),
    [
        ("error-410", 1),
        ("error-500", 1),
        ("error-429", 1),
        ("garbage", 1),
        ("cut-in-the-line", 3),
        ("cut", 3),
        ("twice", 10**6),
        ("rewound", 10**6),
        ("late", 10**6),
    ],
)
def test_b4_b8_a_watch_is_broken(found: Rig, kind: str, how: str, times: int) -> None:
    fault: EventFault = {
        "error-410": error(410),
        "error-500": error(500),
        "error-429": error(429),
        "garbage": garbage,
        "cut-in-the-line": cut_in_the_line,
        "cut": cut,
        "twice": twice,
        "rewound": rewound(),
        "late": delayed(0.5),
    }[how]
    rule = found.proxy.add(watch_of(kind), event=fault, first=2, times=times)
    names = [f"job-{number}" for number in range(3)]
    for name in names:
        found.world.apply(name)
    found.succeeds(*names)
    assert rule.hits >= 1
    found.proxy.heal()
    one_child_each(found, names)
    after = found.world.apply("after")
    found.succeeds(after)
    found.rests()
