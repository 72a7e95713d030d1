"""Who leads, as a table and as random histories: never two at once, whatever the clocks and the network do."""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.lease import (
    LEASE_SECONDS,
    LONGEST_SECONDS,
    RENEW_SECONDS,
    RETRY_SECONDS,
    Claim,
    Sight,
    Step,
    decide,
    held,
    look,
    released,
)

Body = dict[str, Any]

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BARE: Body = {"metadata": {"namespace": "ops", "name": "leader"}}
MINE, OTHER = Claim("me"), Claim("other")


@pytest.mark.parametrize(
    ("claim", "age", "leads", "step"),
    [
        (None, 0, False, Step.TAKE),
        (OTHER, 14.9, False, Step.WAIT),
        (OTHER, 15, False, Step.TAKE),
        (MINE, 0, False, Step.TAKE),
        (MINE, 0, True, Step.TAKE),
        (OTHER, 0, True, Step.END),
        (Claim(""), 0, True, Step.TAKE),
        (Claim("", seconds=15), 14.9, False, Step.WAIT),
        (Claim("", seconds=1), 0.9, False, Step.WAIT),
        (Claim("", seconds=1), 1, False, Step.TAKE),
        (Claim("other", seconds=1), 14.9, False, Step.WAIT),
        (Claim("other", seconds=30), 29.9, False, Step.WAIT),
        (Claim("other", seconds=10**9), LONGEST_SECONDS, False, Step.TAKE),
    ],
)
def test_a_lease_is_taken_when_its_holder_is_no_longer_trusted(
    claim: Claim | None, age: float, leads: bool, step: Step
) -> None:
    sight = Sight(claim, 100) if claim else None
    assert decide(sight, "me", 100 + age, leads=leads) is step


@pytest.mark.parametrize("skew", [timedelta(hours=-1), timedelta(hours=1), timedelta(days=-4000)])
def test_the_holders_clock_decides_nothing(skew: timedelta) -> None:
    sight = look(None, held(BARE, "other", None, NOW + skew), 0)
    assert decide(sight, "me", LEASE_SECONDS - 0.1, leads=False) is Step.WAIT
    assert decide(sight, "me", LEASE_SECONDS, leads=False) is Step.TAKE


def test_a_deleted_lease_frees_nobody_who_was_seen() -> None:
    """It may have been renewed, unseen, just before."""
    sight = look(None, held(BARE, "other", None, NOW), 0)
    gone = look(sight, None, 40)
    assert look(gone, None, 50) == gone
    assert decide(gone, "me", 54.9, leads=False) is Step.WAIT
    assert decide(gone, "me", 55, leads=False) is Step.TAKE
    assert decide(gone, "other", 40, leads=True) is Step.TAKE


def test_a_holder_that_writes_is_trusted_anew_and_one_that_is_only_read_is_not() -> None:
    first = held(BARE, "other", None, NOW)
    sight = look(None, first, 0)
    assert look(sight, first, 10) == sight
    renewed = look(sight, held(first, "other", None, NOW + timedelta(seconds=2)), 10)
    assert renewed
    assert renewed.expires == 10 + LEASE_SECONDS


def test_the_lease_says_who_holds_it_since_when_and_where_it_is_reached() -> None:
    first = held(BARE, "a", "10.0.0.7:8443", NOW)
    assert first["spec"] == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-01T00:00:00.000000Z",
        "renewTime": "2026-01-01T00:00:00.000000Z",
        "leaseTransitions": 0,
    }
    assert Claim.of(first).address == "10.0.0.7:8443"
    again = held(first, "a", "10.0.0.7:8443", NOW + timedelta(seconds=2))
    assert again["spec"]["acquireTime"] == first["spec"]["acquireTime"]
    assert again["spec"]["renewTime"] == "2026-01-01T00:00:02.000000Z"
    other = held(again, "b", None, NOW + timedelta(seconds=20))
    assert (other["spec"]["leaseTransitions"], Claim.of(other).address) == (1, None)


def test_a_released_lease_is_free_a_second_later() -> None:
    free = Claim.of(released(held(BARE, "a", "10.0.0.7:8443", NOW), NOW))
    assert (free.holder, free.address, free.trusted_for) == ("", None, 1)


@pytest.mark.parametrize(
    "spec",
    [
        None,
        {},
        {"holderIdentity": None},
        {"leaseTransitions": 2**31 - 1, "holderIdentity": "x"},
        {"strategy": "s"},
    ],
)
def test_whatever_a_stranger_wrote_can_be_taken(spec: Body | None) -> None:
    body = {"metadata": {"namespace": "ops", "name": "leader", "annotations": None}, "spec": spec}
    taken = held(body, "me", None, NOW)
    assert Claim.of(taken).holder == "me"
    assert 0 <= taken["spec"]["leaseTransitions"] < 2**31


@dataclass
class Server:
    """A Lease with optimistic locking."""

    body: Body | None = None
    version: int = 0

    def write(self, body: Body, expected: int) -> bool:
        if expected != self.version:
            return False
        self.body, self.version = body, self.version + 1
        return True


@dataclass
class Replica:
    """What the edge does with the decisions, on a separate clock. `awake` is when it looks next."""

    name: str
    rate: float
    offset: float
    awake: float
    sight: Sight | None = None
    until: float = field(default=float("-inf"))
    leads: bool = False

    def clock(self, time: float) -> float:
        return self.offset + self.rate * time

    def leads_at(self, time: float) -> bool:
        return self.clock(time) < self.until

    def begin_again(self, name: str) -> None:
        self.name, self.sight, self.until, self.leads = name, None, float("-inf"), False


def step(one: Replica, server: Server, time: float, chance: random.Random) -> None:
    """One look, and what follows; an answer may be lost after the write, or nothing may get through."""
    if one.leads and not one.leads_at(time):
        one.begin_again(f"{one.name}'")
    if chance.random() < 0.2:
        return
    version, found = server.version, server.body
    if found is None and one.sight is None and version:
        return  # a process that has never seen the Lease would create it: see docs/high-availability.md
    one.sight = look(one.sight, found, one.clock(time))
    what = decide(one.sight, one.name, one.clock(time), leads=one.leads)
    if what is Step.END:
        one.begin_again(f"{one.name}'")
    if what is not Step.TAKE:
        return
    body = held(found or BARE, one.name, None, NOW + timedelta(seconds=time + chance.uniform(-900, 900)))
    if not server.write(body, version) or chance.random() < 0.1:
        return
    one.sight = Sight(Claim.of(body), one.clock(time))
    one.leads, one.until = True, one.clock(time) + RENEW_SECONDS


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_two_replicas_never_lead_at_once_and_one_always_does_in_the_end(seed: int) -> None:
    """Pauses, lost requests and answers, deletions, clocks that differ by years and run up to 1 % apart."""
    chance, server, time, deleted = random.Random(seed), Server(), 0.0, 0.0
    replicas = [
        Replica(name, chance.uniform(0.99, 1.01), chance.uniform(0, 1e8), chance.uniform(0, 3))
        for name in "abc"
    ]
    for _ in range(400):
        one = min(replicas, key=lambda replica: replica.awake)
        time = max(time, one.awake)
        step(one, server, time, chance)
        assert sum(replica.leads_at(time) for replica in replicas) <= 1
        paused = chance.random() < 0.05
        one.awake = time + (chance.uniform(5, 60) if paused else RETRY_SECONDS * chance.uniform(0.8, 1.2))
        if time - deleted > 180 and chance.random() < 0.1:
            server.body, server.version, deleted = None, server.version + 1, time
    for replica in replicas:
        replica.begin_again(f"{replica.name}!")
    server.version *= server.body is not None
    calm = random.Random(0)
    calm.random = lambda: 1.0  # type: ignore[method-assign]
    for second in range(2 * int(LEASE_SECONDS)):
        for replica in replicas:
            step(replica, server, time + second, calm)
    assert sum(replica.leads_at(time + 2 * LEASE_SECONDS - 1) for replica in replicas) == 1
