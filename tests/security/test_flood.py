"""The progress endpoint of a real operator under a flood: the operator stays up and ready, its memory stays bounded, a
new job starts, nothing of the flood changes a status, and the reports of other trainers come through.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from finetune_api.run import ProgressEndpoint, RunReport
from finetune_api.status import ProgressStatus
from finetune_cluster.apiserver import ApiServer
from finetune_trainer.reporting.progress import ProgressClient
from integration.operator_rig import Operator, Rest, World, serving, shared_server, until
from ports import free_port

Json = dict[str, Any]

RATE = 1000
SECONDS = 15
CHART_LIMIT_MIB = 512
LAST = 90


@pytest.fixture(scope="module")
def cluster() -> ApiServer:
    return shared_server()


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def operator(cluster: ApiServer, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    where: Json = {"progress_url": f"https://127.0.0.1:{port}", "progress_port": port}
    with serving(
        cluster, folder, "flooded", progress_interval=0.5, tls_folder=folder / "tls", **where
    ) as one:
        yield one


@pytest.fixture
def world(operator: Operator, cluster: ApiServer) -> World:
    return World(Rest(cluster), "flooded")


@dataclass
class Victim:
    """A trainer that reports as the trainer does, with its own client, while a flood lasts."""

    name: str
    world: World
    endpoint: ProgressEndpoint
    seen: list[int] = field(default_factory=list)
    """Steps that were in the status while the flood lasted."""
    _ended: threading.Event = field(default_factory=threading.Event)

    def train(self) -> None:
        client = ProgressClient(self.endpoint, lambda reason: None, interval=1.0)
        step = 0
        while not self._ended.wait(0.5):
            step = min(step + 1, LAST - 1)
            client.offer(report(step))
            if (shown := step_of(self.world, self.name)) and shown not in self.seen:
                self.seen.append(shown)
        client.offer(report(LAST))
        client.close()

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self.train, daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        self._ended.set()


def report(step: int) -> RunReport:
    return RunReport(progress=ProgressStatus(step=step, total_steps=100, percent=step, loss=1.5))


def step_of(world: World, name: str) -> int | None:
    return (world.status(name).get("progress") or {}).get("step")


def running_job(world: World) -> tuple[str, str]:
    name = world.apply()
    pod = world.run(name)
    world.until_phase(name, "Running")
    return name, pod


def victim_of(world: World, port: int, folder: Path) -> Victim:
    """Its token is not known to the operator before the flood begins."""
    name, pod = running_job(world)
    token, authority = folder / f"{name}.token", folder / f"{name}.crt"
    token.write_text(world.token(pod))
    authority.write_text(world.files(name)[0]["ca.crt"])
    url = f"https://127.0.0.1:{port}/v1/progress"
    return Victim(name, world, ProgressEndpoint(url=url, token_path=str(token), ca_path=str(authority)))


def peak_mib(operator: Operator) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{operator.process.pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def test_a_flood_is_limited_and_the_reports_of_others_come_through(
    world: World, port: int, operator: Operator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victims = [victim_of(world, port, tmp_path) for _ in range(3)]
    flooded, pod = running_job(world)
    stranger, other_pod = running_job(world)
    tokens = {"wrong audience": world.token(pod, audience="another"), "other job": world.token(other_pod)}
    authority = world.files(flooded)[0]["ca.crt"]
    asked = {"port": port, "authority": authority, "tokens": tokens, "rate": RATE, "seconds": SECONDS}
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("flood.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ,
    ) as flood:
        assert flood.stdin
        assert flood.stdout
        flood.stdin.write(json.dumps(asked).encode())
        flood.stdin.close()
        threads = [victim.start() for victim in victims]
        until(lambda: all(len(victim.seen) >= 2 for victim in victims), "reports come through", log=operator)
        still = flood.poll() is None
        assert operator.answers("/readyz")
        late, _ = running_job(world)
        until(lambda: all(len(victim.seen) >= 3 for victim in victims), "they go on to", log=operator)
        said = json.loads(flood.stdout.read())
    for victim in victims:
        victim.stop()
    for thread in threads:
        thread.join()
    with capsys.disabled():
        print(f"\n{said['offered'] / said['seconds']:.0f} requests a second were offered: {said}")
        print(f"peak {peak_mib(operator):.0f} MiB, steps that came through {[one.seen for one in victims]}")
    assert still, "the flood was over before anything came through"
    for victim in victims:
        until(lambda victim=victim: step_of(world, victim.name) == LAST, "the last report is in the status")
    assert said["offered"] == RATE * SECONDS
    accepted = {kind for kind in said["answers"] if kind.endswith(": 200")}
    assert accepted <= {"other job: 200"}, "a job may report for itself, at its own rate"
    assert said["answers"].get("other job: 200", 0) <= 5 * said["seconds"]
    assert step_of(world, flooded) is None
    assert step_of(world, stranger) in (None, 99)
    assert step_of(world, late) is None
    assert world.status(flooded)["phase"] == world.status(late)["phase"] == "Running"
    assert operator.answers("/readyz")
    assert peak_mib(operator) < CHART_LIMIT_MIB
