"""How long an idle operator takes from `kubectl apply` to the child Job, what a life costs in writes, and in memory.

    python -m tests.bench.apply_to_child [NUMBER]

One job after the other, on a real API server with its controllers; the time is what a client sees: from sending the
POST to the watch event that shows the child.
"""

import json
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import urllib3

sys.path[:0] = [
    str(Path(__file__).parents[2] / folder) for folder in ("tests", "api", "core", "operator", "cluster")
]

from finetune_cluster.apiserver import ApiServer  # noqa: E402
from integration.operator_rig import (  # noqa: E402
    Operator,
    Rest,
    World,
    install_crd,
    make_namespace,
    running,
    until,
)


class Births:
    """The times at which children were first seen, by the name of their FineTuneJob."""

    def __init__(self, server: ApiServer) -> None:
        self.times: dict[str, float] = {}
        self._server = server
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        pool = urllib3.PoolManager(ca_certs=str(self._server.ca))
        headers = {"Authorization": f"Bearer {self._server.token}"}
        url = f"{self._server.url}/apis/batch/v1/jobs?watch=1"
        stream = pool.request("GET", url, headers=headers, preload_content=False, timeout=None)
        rest = b""
        with suppress(urllib3.exceptions.HTTPError):  # the server ends before we do
            while part := stream.read1():
                now = time.perf_counter()
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    labels = json.loads(line)["object"]["metadata"].get("labels", {})
                    self.times.setdefault(labels.get("finetune.dev/job-name", ""), now)


def megabytes(operator: Operator) -> float:
    """Resident memory."""
    text = Path(f"/proc/{operator.process.pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def cpu_seconds(operator: Operator) -> float:
    """User and system time so far."""
    fields = Path(f"/proc/{operator.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def measure(world: World, births: Births, number: int) -> list[float]:
    """Milliseconds from apply to child, one job after the other."""
    found = []
    for index in range(number):
        name = f"job-{index}"
        start = time.perf_counter()
        world.apply(name)
        until(lambda name=name: name in births.times, "the child is seen")  # type: ignore[misc]
        found.append((births.times[name] - start) * 1000)
        time.sleep(0.1)
    return found


def writes_of_a_life(world: World, operator: Operator) -> tuple[int, int]:
    """The API writes of one happy life with progress off, and how many of them are Events."""
    before = operator.writes()
    name = world.apply("life")
    pod = world.run(name)
    world.until_phase(name, "Running")
    world.succeed(pod)
    world.until_phase(name, "Succeeded")
    until(lambda: len(world.events(name)) == 3, "the events are there")
    return operator.writes() - before, len(world.events(name))


def main() -> None:
    """Print the table."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with ApiServer.start(controllers=True) as server, tempfile.TemporaryDirectory() as folder:
        rest = Rest(server)
        install_crd(rest)
        world = make_namespace(rest, "bench")
        births = Births(server)
        with running(server.kubeconfig, Path(folder)) as operator:
            time.sleep(1)  # until start-up is over
            idle, before = megabytes(operator), cpu_seconds(operator)
            writes, events = writes_of_a_life(world, operator)
            times = sorted(measure(world, births, number))
            full, used = megabytes(operator), cpu_seconds(operator) - before
    rows = [
        ("apply → child Job, p50", f"{statistics.median(times):.0f} ms"),
        ("apply → child Job, p99", f"{times[min(len(times) - 1, round(0.99 * len(times)))]:.0f} ms"),
        ("API writes per happy life", f"{writes - events} + {events} Events"),
        ("memory, idle", f"{idle:.0f} MiB"),
        (f"memory, {number + 1} jobs", f"{full:.0f} MiB"),
        (f"CPU for {number + 1} jobs", f"{used:.2f} s"),
    ]
    for name, value in rows:
        print(f"{name:32} {value}")


if __name__ == "__main__":
    main()
