"""How long an idle operator takes from `kubectl apply` to the child Job, what a life costs in writes, and in memory.

    python -m tests.bench.apply_to_child [NUMBER]

One job after the other, on a real API server with its controllers; the time is what a client sees: from sending the
POST to the watch event that shows the child.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [
    str(Path(__file__).parents[2] / folder) for folder in ("tests", "api", "core", "operator", "cluster")
]

from bench.sightings import cpu_seconds, megabytes, percentile, watch  # noqa: E402
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


def births(server: ApiServer) -> dict[str, float]:
    """The times at which children are first seen, by the name of their FineTuneJob; filled by a thread."""
    times: dict[str, float] = {}

    def seen(child: dict[str, Any], now: float) -> None:
        times.setdefault(child["metadata"].get("labels", {}).get("finetune.dev/job-name", ""), now)

    watch(server, "/apis/batch/v1/jobs", seen)
    return times


def measure(world: World, born: dict[str, float], number: int) -> list[float]:
    """Milliseconds from apply to child, one job after the other."""
    found = []
    for index in range(number):
        name = f"job-{index}"
        start = time.perf_counter()
        world.apply(name)
        until(lambda name=name: name in born, "the child is seen")  # type: ignore[misc]
        found.append((born[name] - start) * 1000)
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
        born = births(server)
        with running(server.kubeconfig, Path(folder)) as operator:
            time.sleep(1)  # until start-up is over
            idle, before = megabytes(operator.process), cpu_seconds(operator.process)
            writes, events = writes_of_a_life(world, operator)
            times = measure(world, born, number)
            full, used = megabytes(operator.process), cpu_seconds(operator.process) - before
    rows = [
        ("apply → child Job, p50", f"{statistics.median(times):.0f} ms"),
        ("apply → child Job, p99", f"{percentile(times, 0.99):.0f} ms"),
        ("API writes per happy life", f"{writes - events} + {events} Events"),
        ("memory, idle", f"{idle:.0f} MiB"),
        (f"memory, {number + 1} jobs", f"{full:.0f} MiB"),
        (f"CPU for {number + 1} jobs", f"{used:.2f} s"),
    ]
    for name, value in rows:
        print(f"{name:32} {value}")


if __name__ == "__main__":
    main()
