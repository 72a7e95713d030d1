"""What a search costs the operator: from the end of a trial to the next trial's Job, step by step; writes, CPU, memory.

    python -m tests.bench.search_cost [TRIALS] [--parallelism N] [--kwok PROGRAM]

TPE on a real API server with its controllers. The trials' pods are played by this process, or by KWOK, whose program is
built with `go install sigs.k8s.io/kwok/cmd/kwok@v0.8.0`; then kube-scheduler binds them, and the results are random.
The times are those at which watches of this process show a change, so they hold for a client.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [
    str(Path(__file__).parents[2] / folder) for folder in ("tests", "api", "core", "operator", "cluster")
]

from bench.kwok import Kwok, make_volume  # noqa: E402
from bench.sightings import cpu_seconds, megabytes, percentile, watch  # noqa: E402
from finetune_api.finetunejob import FineTuneJobSpec  # noqa: E402
from finetune_cluster.apiserver import ApiServer  # noqa: E402
from finetune_core.search.samplers import propose  # noqa: E402
from finetune_core.search.trials import trial_of  # noqa: E402
from integration.operator_rig import (  # noqa: E402
    CHILDREN,
    JOBS,
    PODS,
    Operator,
    Rest,
    World,
    install_crd,
    serving,
    until,
)
from integration.test_operator_search import (  # noqa: E402
    BATCHES,
    RATES,
    loss_of,
    result,
    search,
    trials,
)

NAMESPACE, NAME = "bench", "cost"
OUTPUT = "pvc://demo/cost"
PROPOSALS = 5

Json = dict[str, Any]


@dataclass
class Usage:
    """What the operator has used when a trial was first seen."""

    cpu: float
    megabytes: float


@dataclass
class Course:
    """When a client first saw what of a search; filled by threads of watches."""

    operator: Operator
    on_pod: Callable[[str], None]
    pods: dict[str, float] = field(default_factory=dict)
    """The ends of pods, by the name of their FineTuneJob; so are these:"""
    over: dict[str, float] = field(default_factory=dict)
    """Conditions of Jobs that say that they have ended."""
    ended: dict[str, float] = field(default_factory=dict)
    """Ends in the status of trials."""
    born: dict[str, float] = field(default_factory=dict)
    """Trials."""
    jobs: dict[str, float] = field(default_factory=dict)
    """Jobs."""
    usage: list[Usage] = field(default_factory=list)
    largest_status: int = 0
    _played: set[str] = field(default_factory=set)

    def watch(self, server: ApiServer) -> None:
        """Begin to look."""
        watch(server, PODS.format(NAMESPACE), self._pod)
        watch(server, CHILDREN.format(NAMESPACE), self._job)
        watch(server, JOBS.format(NAMESPACE), self._finetunejob)

    def _pod(self, pod: Json, now: float) -> None:
        owner = pod["metadata"]["labels"]["finetune.dev/job-name"]
        if owner not in self._played:
            self._played.add(owner)
            self.on_pod(owner)
        if pod["status"].get("phase") == "Succeeded":
            self.pods.setdefault(owner, now)

    def _job(self, job: Json, now: float) -> None:
        owner = job["metadata"]["labels"]["finetune.dev/job-name"]
        self.jobs.setdefault(owner, now)
        if any(one["type"] == "Complete" for one in job.get("status", {}).get("conditions", [])):
            self.over.setdefault(owner, now)

    def _finetunejob(self, job: Json, now: float) -> None:
        name, status = job["metadata"]["name"], job.get("status") or {}
        if name == NAME:
            self.largest_status = max(self.largest_status, len(json.dumps(status, separators=(",", ":"))))
            return
        if name not in self.born:
            self.born[name] = now
            self.usage.append(Usage(cpu_seconds(self.operator.process), megabytes(self.operator.process)))
        if "completionTime" in status:
            self.ended.setdefault(name, now)

    def steps(self, parallelism: int) -> dict[str, list[float]]:
        """Milliseconds of each step from the end of a trial to the Job of the trial that takes its place."""
        names = sorted(self.born, key=self.born.__getitem__)
        pairs = list(zip(sorted(self.ended, key=self.ended.__getitem__), names[parallelism:], strict=False))
        points = [
            (self.pods[end], self.over[end], self.ended[end], self.born[new], self.jobs[new])
            for end, new in pairs
        ]
        steps = {
            "pod's end → trial's status": (0, 2),
            "trial's status → next trial, with TPE's proposal": (2, 3),
            "next trial → its Job": (3, 4),
            "pod's end → next trial's Job": (0, 4),
            "pod's end → its Job's condition, for comparison": (0, 1),
        }
        return {
            name: [1000 * (point[to] - point[since]) for point in points]
            for name, (since, to) in steps.items()
        }


def play(world: World, name: str) -> Callable[[str], None]:
    """Run each trial at once, and end it with a loss that its values decide; with the last pod the search ends."""

    def run(owner: str) -> None:
        pod = world.run(owner)
        loss = 0.0 if owner == name else loss_of(world.job(owner)["spec"])
        world.succeed(pod, result(loss))

    return lambda owner: threading.Thread(target=run, args=(owner,)).start()


def milliseconds_to_propose(world: World, name: str) -> float:
    """The values of one more trial, as the operator chooses them in a thread: median of five."""
    parent = FineTuneJobSpec.from_json(world.job(name)["spec"])
    assert parent.search
    bodies = [world.job(trial) for trial in trials(world, name)]
    known = [trial_of(n, body, parent.search.parameters, "loss") for n, body in enumerate(bodies, start=1)]
    times = []
    for _ in range(PROPOSALS):
        start = time.perf_counter()
        assert propose(parent, len(known) + 1, known, "loss")
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def rows_of(course: Course, parallelism: int) -> list[tuple[str, str]]:
    """The steps, and what each quarter of the search used."""
    rows = [
        (name, f"{statistics.median(times):6.0f} ms{percentile(times, 0.99):8.0f} ms")
        for name, times in course.steps(parallelism).items()
    ]
    edges = [round(quarter * (len(course.usage) - 1) / 4) for quarter in range(5)]
    quarters = [
        (course.usage[begin], course.usage[end], end - begin) for begin, end in itertools.pairwise(edges)
    ]
    cpu = "  ".join(f"{1000 * (end.cpu - begin.cpu) / count:.0f}" for begin, end, count in quarters)
    memory = "  ".join(f"{end.megabytes:.0f}" for _, end, _ in quarters)
    return [
        *rows,
        ("CPU per trial in each quarter", f"{cpu} ms"),
        ("memory at the end of each quarter", f"{memory} MiB"),
        ("largest status of the search", f"{course.largest_status:,} bytes"),
    ]


def arguments() -> argparse.Namespace:
    """Those of the command line."""
    parser = argparse.ArgumentParser(description="What a search costs the operator.")
    parser.add_argument("trials", nargs="?", type=int, default=60)
    parser.add_argument("--parallelism", type=int, default=1)
    parser.add_argument("--kwok", type=Path, help="play the pods with this program")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    given = arguments()
    wanted = {"parameters": [RATES, BATCHES], "maxTrials": given.trials, "parallelism": given.parallelism}
    with (
        ApiServer.start(controllers=True) as server,
        tempfile.TemporaryDirectory() as folder,
        Kwok(server, given.kwok, Path(folder)) if given.kwok else nullcontext() as kwok,
    ):
        install_crd(Rest(server))
        with serving(server, Path(folder), NAMESPACE) as operator:
            world = World(Rest(server), NAMESPACE)
            if kwok:
                make_volume(world)
            course = Course(operator, (lambda _: None) if kwok else play(world, NAME))
            course.watch(server)
            idle, cpu, requests, start = (
                megabytes(operator.process),
                cpu_seconds(operator.process),
                operator.requests(),
                time.perf_counter(),
            )
            search(world, NAME, wanted, **({"output": {"uri": OUTPUT}} if kwok else {}))
            until(
                lambda: world.status(NAME).get("phase") == "Succeeded", "the search ends", 30.0 * given.trials
            )
            seconds, used = time.perf_counter() - start, cpu_seconds(operator.process) - cpu
            after, full = operator.requests(), megabytes(operator.process)
            assert len(trials(world, NAME)) == given.trials
            proposal = milliseconds_to_propose(world, NAME)
    done = {verb: count / given.trials for verb, count in (after - requests).items()}
    said = ", ".join(f"{verb} {done[verb]:.1f}" for verb in sorted(done) if verb != "GET")
    writes = sum(count for verb, count in done.items() if verb != "GET")
    rows = [
        ("", "   p50        p99"),
        *rows_of(course, given.parallelism),
        ("CPU per trial", f"{1000 * used / given.trials:.0f} ms"),
        ("memory before the search, after it", f"{idle:.0f}, {full:.0f} MiB"),
        ("API writes per trial, with Events", f"{writes:.1f} ({said})"),
        ("API reads per trial", f"{done.get('GET', 0):.1f}"),
        (f"one proposal after {given.trials} trials", f"{proposal:.0f} ms"),
        ("the search", f"{seconds:.0f} s"),
    ]
    for name, value in rows:
        print(f"{name:50} {value}")


if __name__ == "__main__":
    main()
