"""What a search costs the operator: from the end of a trial to the next trial's Job, writes, CPU and memory.

    python -m tests.bench.search_cost [TRIALS]

TPE, one trial at a time, on a real API server with its controllers; the trials' pods are played. The time is what a
client sees: from writing the end of the pod to the watch event that shows the next Job.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).parents[2] / folder) for folder in ("tests", "api", "core", "operator", "cluster")
]

from bench.apply_to_child import Births, cpu_seconds, megabytes  # noqa: E402
from finetune_cluster.apiserver import ApiServer  # noqa: E402
from integration.operator_rig import (  # noqa: E402
    Rest,
    World,
    install_crd,
    serving,
    until,
)
from integration.test_operator_search import (  # noqa: E402
    BATCHES,
    RATES,
    concluded,
    loss_of,
    result,
    search,
    trials,
)


def measure(world: World, births: Births, number: int) -> list[float]:
    """Milliseconds from the end of each trial to the Job of the next."""
    name = search(world, "cost", {"parameters": [RATES, BATCHES], "maxTrials": number})
    uid = world.job(name)["metadata"]["uid"][:8]
    found, ended = [], 0.0
    for index in range(1, number + 1):
        trial = f"{name}-{uid}-t{index:03}"
        until(lambda trial=trial: trial in births.times, f"{trial} has a Job")  # type: ignore[misc]
        found.append((births.times[trial] - ended) * 1000)
        report = result(loss_of(world.job(trial)["spec"]))
        pod = world.run(trial)
        ended = time.perf_counter()
        world.succeed(pod, report)
    concluded(world, name)
    assert len(trials(world, name)) == number
    return found[1:]


def main() -> None:
    """Print the table."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with ApiServer.start(controllers=True) as server, tempfile.TemporaryDirectory() as folder:
        install_crd(Rest(server))
        births = Births(server)
        with serving(server, Path(folder), "bench") as operator:
            idle, cpu, writes = megabytes(operator), cpu_seconds(operator), operator.writes()
            times = sorted(measure(World(Rest(server), "bench"), births, number))
            full, cpu, writes = megabytes(operator), cpu_seconds(operator) - cpu, operator.writes() - writes
    rows = [
        ("end of a trial → next Job, p50", f"{statistics.median(times):.0f} ms"),
        ("end of a trial → next Job, p99", f"{times[min(len(times) - 1, round(0.99 * len(times)))]:.0f} ms"),
        ("API writes per trial, with Events", f"{writes / number:.1f}"),
        ("CPU per trial", f"{1000 * cpu / number:.0f} ms"),
        ("memory, idle", f"{idle:.0f} MiB"),
        (f"memory, after {number} trials", f"{full:.0f} MiB"),
    ]
    for name, value in rows:
        print(f"{name:36} {value}")


if __name__ == "__main__":
    main()
