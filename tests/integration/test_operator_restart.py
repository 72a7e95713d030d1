"""The operator may be killed at any moment; after a restart it continues as if nothing had happened."""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_cluster.apiserver import ApiServer
from integration.fault_proxy import FaultProxy
from integration.operator_rig import (
    CHILDREN,
    JOBS,
    PATIENCE,
    Operator,
    Refused,
    Rest,
    World,
    make_namespace,
    running,
    until,
)

Json = dict[str, Any]

_VOLATILE = {
    "gpuSeconds",
    "lastTransitionTime",
    "startTime",
    "endTime",
    "runningTime",
    "completionTime",
    "lastUpdateTime",
    "message",
}


@dataclass
class Census:
    """Counts, by polling, how many different objects a job ever had."""

    world: World
    name: str
    uids: dict[str, set[str]] = field(default_factory=lambda: {"Job": set(), "Pod": set(), "Claim": set()})
    most_alive: int = 0

    def look(self) -> None:
        """Record what exists."""
        children = self.world.children(self.name)
        alive = [one for one in children if not _over(one)]
        self.most_alive = max(self.most_alive, len(alive))
        found = {"Job": children, "Pod": self.world.pods(self.name), "Claim": self.world.claims(self.name)}
        for kind, bodies in found.items():
            self.uids[kind] |= {one["metadata"]["uid"] for one in bodies}

    def counts(self) -> dict[str, int]:
        """Objects by kind."""
        return {kind: len(found) for kind, found in self.uids.items()}


def _over(child: Json) -> bool:
    return any(
        one["type"] in ("Complete", "Failed") and one["status"] == "True"
        for one in child["status"].get("conditions", [])
    )


def essence(status: Json) -> Json:
    """The parts of a status that do not depend on times, names and uids."""

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: of(child) for key, child in value.items() if key not in _VOLATILE}
        return [of(child) for child in value] if isinstance(value, list) else value

    kept = of(status)
    for seconds in ("activeSeconds", "usage"):
        kept.pop(seconds, None)
    for part in ("model", "effective"):
        kept.get(part, {}).pop("uri", None)
        kept.get(part, {}).pop("outputUri", None)
    return dict(kept)


def live(world: World, name: str) -> Census:
    """User and kubelet of a job that succeeds; the operator may be killed meanwhile."""
    census = Census(world, name)
    world.apply(name)
    until(lambda: world.children(name), "the child is made")
    pod = world.run(name)
    census.look()
    world.until_phase(name, "Running")
    world.succeed(pod)
    world.until_phase(name, "Succeeded")
    census.look()
    return census


def test_killed_before_or_after_any_write_of_a_life_it_ends_as_the_undisturbed_one(
    cluster: ApiServer, rest: Rest, tmp_path: Path
) -> None:
    world = make_namespace(rest, "crash")
    proxy = FaultProxy(cluster, tmp_path)
    operator = Operator(proxy.kubeconfig, tmp_path, {"namespaces": ["crash"]}).start().ready()
    try:
        proxy.disarm()
        reference = live(world, "undisturbed")
        until(lambda: len(world.events("undisturbed")) == 3, "all events are posted")
        wanted = essence(world.status("undisturbed"))
        writes = [write for write in proxy.writes if "events" not in write]
        total = len(proxy.writes)
        assert len(writes) == 5, writes

        for number in range(1, total + 1):
            for after in (False, True):
                name = f"killed-{'after' if after else 'before'}-{number}"
                dead = threading.Event()

                def strike(victim: Operator = operator, dead: threading.Event = dead) -> None:
                    victim.process.kill()
                    dead.set()

                proxy.arm(number, strike, after=after)
                restarted = restart_when(dead, operator)
                census = live(world, name)
                restarted.join(PATIENCE)
                assert dead.is_set(), f"no write {number}: {proxy.writes}"
                assert essence(world.status(name)) == wanted, name
                assert census.counts() == reference.counts(), name
                assert census.most_alive <= 1
                proxy.disarm()
    finally:
        operator.kill()
        proxy.stop()


def restart_when(dead: threading.Event, operator: Operator) -> threading.Thread:
    def restart() -> None:
        if dead.wait(PATIENCE):
            operator.process.wait(PATIENCE)
            operator.start()

    thread = threading.Thread(target=restart, daemon=True)
    thread.start()
    return thread


def test_killed_at_random_moments_no_job_trains_twice(cluster: ApiServer, rest: Rest, tmp_path: Path) -> None:
    world = make_namespace(rest, "random")
    moments = random.Random(7)
    names = [f"job-{number}" for number in range(10)]
    with running(cluster.kubeconfig, tmp_path, namespaces=["random"], retry_backoff=0.2) as operator:
        for name in names:
            world.apply(name)
        censuses = {name: Census(world, name) for name in names}
        for _ in range(4):
            time.sleep(moments.uniform(0.05, 0.9))
            operator.kill()
            for name in names:
                _kubelet_step(world, name, moments)
                censuses[name].look()
            operator.start()
        operator.ready()
        deadline = time.monotonic() + PATIENCE
        while any(world.status(name).get("phase") != "Succeeded" for name in names):
            assert time.monotonic() < deadline, [world.status(name).get("phase") for name in names]
            for name in names:
                _kubelet_step(world, name, moments)
                censuses[name].look()
    for name, census in censuses.items():
        assert census.most_alive <= 1, name
        attempts = Counter(one["metadata"]["labels"]["finetune.dev/attempt"] for one in world.children(name))
        assert set(attempts.values()) == {1}, name
        assert world.status(name)["attempt"] == len(attempts) == census.counts()["Job"]


def _kubelet_step(world: World, name: str, moments: random.Random) -> None:
    """Bring one pod one state further: pending, running, ended; one in five ends is an interruption."""
    for pod in world.pods(name):
        phase, pod_name = pod["status"].get("phase"), pod["metadata"]["name"]
        try:
            if "nodeName" not in pod["spec"]:
                world.bind(pod_name)
            elif phase == "Pending":
                world.start_container(pod_name)
            elif phase == "Running" and moments.random() < 0.2:
                world.end(pod_name, 75)
            elif phase == "Running":
                world.succeed(pod_name)
        except Refused:
            continue


def test_with_the_operator_down_deletion_completes_and_the_output_stays(
    cluster: ApiServer, rest: Rest, tmp_path: Path
) -> None:
    world = make_namespace(rest, "down")
    with running(cluster.kubeconfig, tmp_path, namespaces=["down"]) as operator:
        name = world.apply()
        pod = world.run(name)
        world.until_phase(name, "Running")
        operator.kill()
        world.delete(name)
        until(lambda: rest.get(world.at(JOBS, name)) is None, "the job is gone")
        until(
            lambda: "deletionTimestamp" in (world.get_pod(pod) or {"metadata": {}})["metadata"],
            "the pod stops",
        )
        world.remove(pod)
        until(lambda: not world.children(name) and not world.config_maps(name), "the children are collected")
        assert len(world.claims(name)) == 1


def test_what_happened_while_it_was_down_is_caught_up(cluster: ApiServer, rest: Rest, tmp_path: Path) -> None:
    world = make_namespace(rest, "away")
    with running(cluster.kubeconfig, tmp_path, namespaces=["away"]) as operator:
        ends, stops, deleted = world.apply(), world.apply(), world.apply()
        pods = {name: world.run(name) for name in (ends, stops, deleted)}
        for name in pods:
            world.until_phase(name, "Running")
        operator.kill()

        world.succeed(pods[ends])
        until(lambda: _over(world.children(ends)[0]), "the Job is complete")
        world.change(stops, suspend=True)
        world.delete(deleted)
        world.remove(pods[deleted])
        born = world.apply()

        operator.start().ready()
        world.until_phase(ends, "Succeeded")
        world.obey(pods[stops])
        world.until_phase(stops, "Suspended")
        world.pod(born)
        until(lambda: not world.children(deleted), "the deleted job's child is collected")


def test_a_job_lost_with_its_pod_while_the_operator_was_down_is_tried_again_and_costs_no_retry(
    cluster: ApiServer, rest: Rest, tmp_path: Path
) -> None:
    world = make_namespace(rest, "lost")
    with running(cluster.kubeconfig, tmp_path, namespaces=["lost"], retry_backoff=0.1) as operator:
        name = world.apply()
        pod = world.run(name)
        world.until_phase(name, "Running")
        operator.kill()
        child = world.children(name)[0]["metadata"]["name"]
        rest("DELETE", world.at(CHILDREN, child) + "?propagationPolicy=Background")
        until(
            lambda: "deletionTimestamp" in (world.get_pod(pod) or {"metadata": {}})["metadata"],
            "the pod stops",
        )
        world.remove(pod)
        until(lambda: not world.children(name) and not world.pods(name), "all is gone")
        operator.start().ready()
        world.pod(name, attempt=2)
        first = world.status(name)["attempts"][0]
        assert (first["reason"], first["counted"]) == ("PodLost", False)


def test_a_restart_touches_no_finished_job(cluster: ApiServer, rest: Rest, tmp_path: Path) -> None:
    world = make_namespace(rest, "finished")
    with running(cluster.kubeconfig, tmp_path, namespaces=["finished"]) as operator:
        for name in [world.apply() for _ in range(5)]:
            world.succeed(world.run(name))
            world.until_phase(name, "Succeeded")
        operator.kill()
        before = {one["metadata"]["resourceVersion"] for one in rest.items(world.at(JOBS))}
        operator.start().ready()
        time.sleep(1)
        assert operator.writes() == 0
        assert {one["metadata"]["resourceVersion"] for one in rest.items(world.at(JOBS))} == before


def test_sigterm_ends_it_in_order(cluster: ApiServer, rest: Rest, tmp_path: Path) -> None:
    world = make_namespace(rest, "sigterm")
    with running(cluster.kubeconfig, tmp_path, namespaces=["sigterm"]) as operator:
        for _ in range(5):
            world.apply()
        started = time.monotonic()
        assert operator.stop() == 0, operator.log()
        assert time.monotonic() - started < 30, "it waited for the kubelet's SIGKILL"
        assert "Traceback" not in operator.log(), operator.log()
