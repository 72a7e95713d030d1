"""The leader is paused, cut off, robbed of its Lease or replaced under load: another leads within 20 seconds, no job
gets a second child, and nothing that a former leader still sends takes effect.
"""

import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import LARGE_OBJECTIVE
from faults.observer import Observer
from finetune_cluster.apiserver import ApiServer
from integration.fault_proxy import FaultProxy
from integration.operator_rig import CHILDREN, JOBS, MERGE, PODS, Rest, until
from integration.replicas import LEASE, LEASES, TAKEOVER, Replica, Replicas, replicas, seconds_until

Json = dict[str, Any]


@pytest.fixture
def pair(
    cluster: ApiServer, rest: Rest, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Replicas]:
    """A namespace of the test's own, and an observer that checks."""
    words = re.findall("[a-z0-9]+", request.node.name.removeprefix("test_"))
    name = "-".join([*words[:6], f"{zlib.crc32(request.node.name.encode()):x}"])
    with replicas(cluster, rest, tmp_path, name) as found:
        observer = Observer(cluster, name)
        yield found
        observer.stop()
        observer.check()


def apply(pair: Replicas, number: int, prefix: str) -> list[str]:
    return [pair.world.apply(f"{prefix}-{index}") for index in range(number)]


def all_have_one_child(pair: Replicas, names: list[str]) -> None:
    until(
        lambda: len(pair.world.rest.items(pair.world.at(CHILDREN))) >= len(names), "every job has its child"
    )
    owners = [one["metadata"]["labels"]["finetune.dev/job-name"] for one in children(pair)]
    assert sorted(owners) == sorted(names)


def children(pair: Replicas) -> list[Json]:
    return pair.world.rest.items(pair.world.at(CHILDREN))


def test_a_paused_leader_that_goes_on_writes_nothing_and_ends(pair: Replicas) -> None:
    first = pair.start("first", proxied=True)
    pair.leader(first)
    second = pair.start("second")
    assert first.proxy
    names = apply(pair, 5, "before")
    until(lambda: children(pair), "it works")
    names += apply(pair, 20, "while-paused")
    first.pause()
    assert seconds_until(lambda: second.leads, "the second leads") < TAKEOVER
    all_have_one_child(pair, names)
    for name in names[:5]:
        pair.world.succeed(pair.world.run(name))
        pair.world.until_phase(name, "Succeeded")
    first.proxy.disarm()
    before = {one["metadata"]["name"]: one for one in pair.world.rest.items(pair.world.at(JOBS))}
    first.resume()
    assert first.ends() == 1
    assert first.proxy.writes == []
    assert {one["metadata"]["name"]: one for one in pair.world.rest.items(pair.world.at(JOBS))} == before
    all_have_one_child(pair, names)


@pytest.mark.parametrize(
    ("kind", "is_held", "answer"),
    [
        ("status", lambda write: write.startswith("PUT") and write.endswith("/status"), 409),
        ("child", lambda write: write.startswith("POST") and write.endswith("/jobs"), 409),
        ("run-config", lambda write: write.startswith("POST") and write.endswith("/configmaps"), 409),
    ],
)
def test_a_late_write(pair: Replicas, kind: str, is_held: Callable[[str], bool], answer: int) -> None:
    """It was sent in time and arrives when another leads: a network may hold it back for any time."""
    first = pair.start("first", proxied=True)
    pair.leader(first)
    second = pair.start("second")
    assert first.proxy
    first.proxy.holds = is_held
    large = {"objective": LARGE_OBJECTIVE} if kind == "run-config" else {}
    name = pair.world.apply(f"late-{kind}", **large)
    until(lambda: any(is_held(write) for write in list(first.proxy.writes)), "a write is held back")
    first.pause()
    assert seconds_until(lambda: second.leads, "the second leads") < TAKEOVER
    pair.world.run(name)
    pair.world.until_phase(name, "Running")
    stored, there = pair.world.job(name), [one["metadata"]["uid"] for one in children(pair)]
    first.proxy.let_go()
    until(lambda: first.proxy and first.proxy.held, "it has arrived")
    assert {code for _, code in first.proxy.held} == {answer}
    assert [one["metadata"]["uid"] for one in children(pair)] == there
    assert pair.world.job(name) == stored
    first.resume()
    assert first.ends() == 1


def test_a_late_deletion_stops_no_attempt_but_the_one_that_was_to_stop(pair: Replicas) -> None:
    first = pair.start("first", proxied=True)
    pair.leader(first)
    second = pair.start("second", retry_backoff=0.1)
    assert first.proxy
    name = pair.world.apply("late-deletion")
    pod = pair.world.run(name)
    pair.world.until_phase(name, "Running")
    first.proxy.holds = lambda write: write.startswith("DELETE")
    pair.world.change(name, suspend=True)
    until(
        lambda: first.proxy and any(write.startswith("DELETE") for write in list(first.proxy.writes)),
        "a deletion is held back",
    )
    first.pause()
    assert seconds_until(lambda: second.leads, "the second leads") < TAKEOVER
    pair.world.change(name, suspend=False)
    pair.world.obey(pod)
    pair.world.run(name, attempt=2)
    pair.world.until_phase(name, "Running")
    status = pair.world.status(name)
    assert [one["number"] for one in status["attempts"]] == [1, 2]
    first.proxy.let_go()
    until(lambda: first.proxy and first.proxy.held, "it has arrived")
    first.resume()
    assert first.ends() == 1
    living = [one for one in children(pair) if "deletionTimestamp" not in one["metadata"]]
    assert [one["metadata"]["labels"]["finetune.dev/attempt"] for one in living] == ["2"]
    assert pair.world.status(name)["phase"] == "Running"


def test_a_leader_that_is_cut_off_ends_before_another_leads(pair: Replicas) -> None:
    first = pair.start("first", proxied=True)
    pair.leader(first)
    second = pair.start("second")
    assert first.proxy
    names = apply(pair, 10, "before")
    first.proxy.cut()
    names += apply(pair, 10, "cut-off")
    ended: list[float] = []
    watcher = threading.Thread(target=lambda: (first.ends(), ended.append(time.monotonic())))
    watcher.start()
    assert seconds_until(lambda: second.leads, "the second leads") < TAKEOVER
    leads_since = time.monotonic()
    watcher.join(TAKEOVER)
    assert ended
    assert ended[0] < leads_since
    assert "could not be renewed for 10 s" in first.log()
    assert "Traceback" not in first.log(), first.log()
    all_have_one_child(pair, names)


def test_an_operator_that_starts_while_the_api_server_is_away_waits_for_it(
    pair: Replicas, tmp_path: Path
) -> None:
    """As the only replica does, which has ended because its Lease could not be renewed."""
    away = FaultProxy(pair.server, tmp_path)
    away.stop()
    one = pair.launch("one", away.kubeconfig, tls_secret=f"{pair.world.namespace}/tls")
    until(lambda: "does not answer, trying again" in one.log(), "it says so", log=one)
    secret = {"metadata": {"name": "tls"}}
    pair.world.rest("POST", pair.world.at("/api/v1/namespaces/{}/secrets"), secret)
    back = FaultProxy(pair.server, tmp_path, away.port)
    pair.stack.callback(back.stop)
    one.ready()
    pair.leader(one, seconds=30)


def test_a_deleted_lease_is_made_again_by_its_holder(pair: Replicas) -> None:
    first = pair.start("first")
    pair.leader(first)
    second = pair.start("second")
    before = (pair.lease() or {})["metadata"]["uid"]
    pair.world.rest("DELETE", pair.world.at(LEASES, LEASE))
    until(lambda: (pair.lease() or {}).get("metadata", {}).get("uid") not in (None, before), "there is one")
    assert pair.holder() == "first"
    time.sleep(5)
    assert (first.leads, second.leads) == (True, False)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_lease_that_a_stranger_takes_is_taken_back_when_the_stranger_is_silent(
    pair: Replicas, hours: int
) -> None:
    """Whatever the stranger's clock says."""
    first = pair.start("first")
    pair.leader(first)
    second = pair.start("second")
    moment = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() + hours * 3600))
    spec = {"holderIdentity": "stranger", "renewTime": moment, "leaseDurationSeconds": 1}
    pair.world.rest("PATCH", pair.world.at(LEASES, LEASE), {"spec": spec}, MERGE)
    began = time.monotonic()
    assert first.ends() == 1
    assert "stranger holds the Lease" in first.log()
    until(lambda: second.leads, "the second leads", TAKEOVER)
    assert time.monotonic() - began > 12, "the stranger could have been a leader"


def test_an_emptied_lease_is_taken_again_by_its_holder(pair: Replicas) -> None:
    first = pair.start("first")
    pair.leader(first)
    second = pair.start("second")
    empty = {"holderIdentity": None, "renewTime": None, "acquireTime": None}
    pair.world.rest("PATCH", pair.world.at(LEASES, LEASE), {"spec": empty}, MERGE)
    until(lambda: pair.holder() == "first", "the first holds it again", 10)
    assert (first.leads, second.leads) == (True, False)


def test_replicas_that_are_replaced_one_by_one_under_load_make_each_child_once(pair: Replicas) -> None:
    old = [pair.start("old-1"), pair.start("old-2")]
    pair.leader(*old)
    names, replaced = apply(pair, 5, "at-first"), list[Replica]()
    for number, one in enumerate(old):
        new = pair.start(f"new-{number}")
        names += apply(pair, 10, f"round-{number}")
        assert one.stop() == 0
        assert "Traceback" not in one.log(), one.log()
        replaced.append(new)
        pair.leader(*replaced, *old[number + 1 :], seconds=10)
    all_have_one_child(pair, names)
    assert len({one["metadata"]["uid"] for one in children(pair)}) == len(names)


def test_nobody_leads_beside_an_operator_that_knows_no_leader_election(pair: Replicas) -> None:
    pod = {
        "metadata": {"name": "old-operator", "labels": {"app": "operator"}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "operator", "image": "x"}]},
    }
    pair.world.rest("POST", pair.world.at(PODS), pod)
    one = pair.start("new", predecessors="app=operator,!finetune.dev/leader-election")
    until(lambda: "old-operator runs an operator that knows no leader election" in one.log(), "it says so")
    time.sleep(3)
    assert not one.leads
    pair.world.rest("DELETE", pair.world.at(PODS, "old-operator") + "?gracePeriodSeconds=0")
    pair.leader(one, seconds=10)
