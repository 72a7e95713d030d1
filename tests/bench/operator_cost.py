"""What many jobs at once cost: time to the child Job, CPU, memory and API calls; of our operator, or of a peer.

    python -m tests.bench.operator_cost [--jobs 100 500] [--pods kwok|none] [--peer] [--bare] [--flood]
                                        [--takeover] [--image] [--runs 1] [--out FILE]
    python -m tests.bench.operator_cost --finished 10000

A real API server for each run. With `--pods kwok` its controllers and kube-scheduler work too, and KWOK plays the pods:
each ends a second after it started. With `--pods none` nothing but the operator works on the jobs. `--flood` measures
what one team's job waits for while another team submits all of these. `--bare` sends the operator's requests by a
client that does nothing else: the upper bound that the API server allows here. `--finished` measures the visit of a job
that has ended, of N in the cache; `--takeover` kills a leader whose standby knows all jobs. Each run is a line of JSON.

`--image` runs the operator out of its image, as a cluster does: with the image's Python, which may be a faster one than
this environment's. It needs root.

The jobs run a command in an allowed image and write to a claim that is bound. The peer is training-operator v1.8.1,
whose PyTorchJobs have one worker. Times are those at which watches of this process show a change.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

sys.path[:0] = [
    str(Path(__file__).parents[2] / folder) for folder in ("tests", "api", "core", "operator", "cluster")
]

from bench import bare_requests  # noqa: E402
from bench.image import unpacked_operator  # noqa: E402
from bench.kwok import Kwok, make_volume  # noqa: E402
from bench.sightings import cpu_of_programs, cpu_seconds, megabytes, percentile, watch  # noqa: E402
from bench.training_operator import PyTorchJobs  # noqa: E402
from builders import job, script_job, stored  # noqa: E402
from finetune_cluster.apiserver import ApiServer  # noqa: E402
from finetune_cluster.binaries import binary  # noqa: E402
from finetune_core.settings import OperatorSettings  # noqa: E402
from finetune_operator.cache import Cache  # noqa: E402
from finetune_operator.clock import SteadyClock  # noqa: E402
from finetune_operator.reconcile import Reconciler  # noqa: E402
from finetune_operator.reports import Reports  # noqa: E402
from integration.operator_rig import (  # noqa: E402
    CHILDREN,
    JOBS,
    TRAINER,
    Json,
    Operator,
    Rest,
    World,
    install_crd,
    make_namespace,
    running,
    until,
)

NAMESPACE, OTHER = "bench", "small-team"
CLIENTS = 16
OTHERS = 20
_PATIENCE = 1200.0


@dataclass
class FineTuneJobs:
    """Our operator's jobs, as the bench handles them."""

    path = JOBS
    children = CHILDREN
    owner = "finetune.dev/job-name"
    settings: Json = field(default_factory=dict)
    image: Path | None = None

    def prepare(self, rest: Rest) -> None:
        """What must be installed before the operator starts."""
        install_crd(rest)

    def job(self, name: str) -> Json:
        """A job whose pod succeeds if its command does."""
        return script_job(
            name,
            command=["true"],
            resources={"gpusPerNode": 0},
            output={"uri": f"pvc://demo/{name}"},
        )

    def over(self, body: Json) -> bool:
        """Whether a job has ended."""
        return "completionTime" in (body.get("status") or {})

    @contextmanager
    def operator(self, server: ApiServer, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
        """The operator's process, ready."""
        with running(server.kubeconfig, folder, image=self.image, **self.settings) as self.running:
            yield self.running.process

    def requests(self) -> dict[str, int]:
        """Requests to the API server by their verb, but for watches."""
        return dict(self.running.requests())


@dataclass
class BareRequests(FineTuneJobs):
    """The same jobs, whose requests a client sends: no operator."""


@dataclass
class Course:
    """When a client first saw what, by the name of the job; filled by threads of watches."""

    kind: FineTuneJobs | PyTorchJobs
    sent: dict[str, float] = field(default_factory=dict)
    born: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)

    def watch(self, server: ApiServer, namespace: str) -> None:
        """Begin to look."""
        watch(server, self.kind.children.format(namespace), self._child)
        watch(server, self.kind.path.format(namespace), self._job)

    def _child(self, body: Json, now: float) -> None:
        self.born.setdefault(body["metadata"].get("labels", {}).get(self.kind.owner, ""), now)

    def _job(self, body: Json, now: float) -> None:
        if self.kind.over(body):
            self.ended.setdefault(body["metadata"]["name"], now)

    def waits(self) -> list[float]:
        """Seconds from the POST of each job to its child."""
        return [self.born[name] - sent for name, sent in self.sent.items()]


def submit(rest: Rest, course: Course, namespace: str, names: list[str]) -> None:
    """POST the jobs, some at a time."""

    def post(name: str) -> None:
        course.sent[name] = time.perf_counter()
        rest("POST", course.kind.path.format(namespace), course.kind.job(name))

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(post, names))


def prepare(rest: Rest, name: str, *, pods: bool) -> None:
    """A namespace with the claim that the jobs write to, for pods with a volume."""
    if pods:
        make_volume(make_namespace(rest, name))
    else:  # without controllers no ServiceAccount is made
        rest("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        World(rest, name).make_claim("demo")


def measure(
    kind: FineTuneJobs | PyTorchJobs, number: int, pods: str, *, flood: bool, takeover: bool = False
) -> Json:
    """One run: its figures."""
    with ApiServer.start(controllers=pods == "kwok") as server, tempfile.TemporaryDirectory() as made:
        folder, rest = Path(made), Rest(server)
        kind.prepare(rest)
        played = Kwok(server, binary("kwok"), folder) if pods == "kwok" else nullcontext()
        if isinstance(kind, BareRequests):
            with played:
                return {"operator": "none", "jobs": number, "pods": pods} | _bare(kind, rest, number, pods)
        with played, kind.operator(server, folder) as process:
            for namespace in (NAMESPACE, OTHER):
                prepare(rest, namespace, pods=pods == "kwok")
            time.sleep(2)  # until start-up is over
            found = _run(kind, server, rest, process, number, whole=pods == "kwok", flood=flood)
            if isinstance(kind, FineTuneJobs) and not flood:
                found |= _restart(kind.running, number)
                found |= _takeover(kind, rest, folder) if takeover else {}
    image = isinstance(kind, FineTuneJobs) and kind.image is not None
    return {
        "operator": type(kind).__name__,
        "image": image,
        "jobs": number,
        "pods": pods,
        "flood": flood,
    } | found


def _bare(kind: BareRequests, rest: Rest, number: int, pods: str) -> Json:
    """The requests of the operator without it."""
    prepare(rest, NAMESPACE, pods=pods == "kwok")
    load, before = os.getloadavg()[0], cpu_of_programs()
    settings = OperatorSettings(trainer_image=TRAINER, **kind.settings)
    found = bare_requests.send(rest, kind.job("any"), number, CLIENTS, settings, NAMESPACE)
    return found | {
        "cpuOfPrograms": _since(before),
        "loadAverage": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def _since(before: dict[str, float]) -> dict[str, float]:
    """CPU seconds of each program since then; ours and this one are both python."""
    return {name: round(now - before.get(name, 0), 1) for name, now in cpu_of_programs().items()}


def _run(
    kind: FineTuneJobs | PyTorchJobs,
    server: ApiServer,
    rest: Rest,
    process: "subprocess.Popen[bytes]",
    number: int,
    *,
    whole: bool,
    flood: bool,
) -> Json:
    course, names = Course(kind), [f"job-{index:05}" for index in range(number)]
    course.watch(server, NAMESPACE)
    load, used, idle = os.getloadavg()[0], cpu_seconds(process), megabytes(process)
    programs = cpu_of_programs()
    requests, start = kind.requests(), time.perf_counter()
    others = _other_team(kind, server, rest) if flood else None
    submit(rest, course, NAMESPACE, names)
    sent = time.perf_counter() - start
    waits = others() if others else None
    until(lambda: len(course.born) >= number, "all children are seen", _PATIENCE)
    at_birth, programs = cpu_seconds(process) - used, _since(programs)
    if whole:
        until(lambda: len(course.ended) >= number, "all jobs have ended", _PATIENCE)
    _until_quiet(kind, 5 if whole else 92)  # a start that takes 90 s is written
    cpu, times = cpu_seconds(process) - used, course.waits()
    last = max(course.born.values()) - start
    return {
        "sentSeconds": round(sent, 2),
        "childrenPerSecond": round(number / last, 1),
        "childP50": round(percentile(times, 0.5), 3),
        "childP99": round(percentile(times, 0.99), 3),
        "lastChild": round(last, 2),
        "allEnded": round(max(course.ended.values()) - start, 2) if whole else None,
        "cpuSeconds": round(cpu, 2),
        "cpuToChildren": round(at_birth, 2),
        "cpuOfProgramsToChildren": programs,
        "cpuMillisecondsPerJob": round(1000 * cpu / number, 2),
        "idleMiB": round(idle),
        "peakMiB": round(megabytes(process, "VmHWM")),
        "requests": {verb: count - requests.get(verb, 0) for verb, count in kind.requests().items()},
        "otherTeam": waits,
        "loadAverage": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def _other_team(kind: FineTuneJobs | PyTorchJobs, server: ApiServer, rest: Rest) -> Callable[[], Json]:
    """Submit jobs of another namespace, one after the other; returns a function that waits for their figures."""
    course = Course(kind)
    course.watch(server, OTHER)
    time.sleep(0.5)

    def one_by_one() -> None:
        time.sleep(0.5)  # the flood has begun
        for index in range(OTHERS):
            name = f"other-{index}"
            submit(rest, course, OTHER, [name])
            until(lambda name=name: name in course.born, f"the child of {name} is seen", _PATIENCE)  # type: ignore[misc]

    thread = threading.Thread(target=one_by_one)
    thread.start()

    def figures() -> Json:
        thread.join()
        waits = course.waits()
        return {"childP50": round(percentile(waits, 0.5), 3), "childP99": round(max(waits), 3)}

    return figures


def _restart(operator: Operator, number: int) -> Json:
    """Seconds until a new process has reconciled all jobs, and what it writes."""
    operator.kill()
    start = time.perf_counter()
    operator.start().ready()
    while True:
        seconds = _idle_at(operator) - start
        if _reconciles(operator) >= number and not _depth(operator):
            break
    return {
        "restartSeconds": round(seconds, 2),
        "restartCpuSeconds": round(cpu_seconds(operator.process), 2),
        "restartWrites": operator.writes(),
        "restartPeakMiB": round(megabytes(operator.process, "VmHWM")),
    }


def _idle_at(operator: Operator) -> float:
    """When it began to rest. A scrape of thousands of jobs would keep it busy itself, for a second."""
    used, moment = cpu_seconds(operator.process), time.perf_counter()
    while True:
        time.sleep(0.25)
        now = cpu_seconds(operator.process)
        if now - used < 0.05:
            return moment
        used, moment = now, time.perf_counter()


def _takeover(kind: FineTuneJobs, rest: Rest, folder: Path) -> Json:
    """Seconds from the death of a leader to the child of a job that was submitted right after it."""
    kind.running.kill()
    with ExitStack() as stack:
        replicas = []
        for name in ("leader", "standby"):
            (folder / name).mkdir()
            settings = kind.settings | {"lease": f"{NAMESPACE}/operator", "identity": name}
            replica = running(kind.running.kubeconfig, folder / name, image=kind.image, **settings)
            replicas.append(stack.enter_context(replica))
            until(lambda: _leads(replicas[0]), "the first one leads")
        replicas[0].kill()
        start, name = time.perf_counter(), "submitted-to-nobody"
        rest("POST", kind.path.format(NAMESPACE), kind.job(name))
        children = kind.children.format(NAMESPACE)
        until(lambda: rest.items(children, f"{kind.owner}={name}"), "its child is there", _PATIENCE)
        return {"takeoverSeconds": round(time.perf_counter() - start, 2)}


def _leads(operator: Operator) -> bool:
    return _value(operator, "finetune_operator_leader") == 1


async def visits_of_finished(number: int) -> Json:
    """CPU of a visit of each of N finished jobs, by a reconcile whose client does not exist."""
    cache, nothing = Cache(), cast("Any", None)
    status = {"phase": "Succeeded", "observedGeneration": 1, "completionTime": "2026-01-01T00:00:00Z"}
    keys = [
        cache.put_finetunejob(stored(job(f"job-{index}"), uid=f"uid-{index}") | {"status": status})
        for index in range(number)
    ]
    reconcile = Reconciler(
        cache,
        cluster=nothing,
        children=nothing,
        runs=nothing,
        reports=Reports(),
        metrics=nothing,
        settings=OperatorSettings(trainer_image=TRAINER),
        inputs=nothing,
        warning_events=nothing,
        kueue=nothing,
        poster=nothing,
        clock=SteadyClock(),
    )
    start = time.process_time()
    for key in keys:
        assert await reconcile(key) is None
    used = time.process_time() - start
    return {"finishedJobs": number, "microsecondsPerVisit": round(1e6 * used / number, 1)}


def _reconciles(operator: Operator) -> float:
    return _value(operator, "finetune_operator_queue_latency_seconds_count")


def _depth(operator: Operator) -> float:
    return _value(operator, "finetune_operator_queue_depth")


def _value(operator: Operator, metric: str) -> float:
    lines = (line for line in operator.metrics().splitlines() if line.startswith(f"{metric} "))
    return float(next(lines).rpartition(" ")[2])


def _until_quiet(kind: FineTuneJobs | PyTorchJobs, seconds: float) -> None:
    """Until the operator has written nothing for this long: an Event may be the last one."""

    def writes() -> int:
        return sum(count for verb, count in kind.requests().items() if verb != "GET")

    before = writes()
    while True:
        time.sleep(seconds)
        now = writes()
        if now == before:
            return
        before = now


def _measured(kind: FineTuneJobs | PyTorchJobs, number: int, asked: argparse.Namespace) -> Json:
    return measure(kind, number, asked.pods, flood=asked.flood, takeover=asked.takeover)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[500])
    parser.add_argument("--pods", choices=["kwok", "none"], default="kwok")
    parser.add_argument("--peer", action="store_true", help="the peer's jobs, too")
    parser.add_argument("--bare", action="store_true", help="the same requests by a client alone, too")
    parser.add_argument("--flood", action="store_true", help="what another team's job waits for meanwhile")
    parser.add_argument("--takeover", action="store_true", help="and how soon a standby takes over with them")
    parser.add_argument(
        "--image", action="store_true", help="the operator out of its image, as a cluster runs it"
    )
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--out", type=Path, help="append each run to this file")
    parser.add_argument("--finished", type=int, help="the visit of a finished job only, of N")
    arguments = parser.parse_args()
    if arguments.finished:
        print(json.dumps(asyncio.run(visits_of_finished(arguments.finished))))
        return
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
    ours: Json = {"allowed_images": [TRAINER]}
    with unpacked_operator() if arguments.image else nullcontext() as image:
        kinds: list[Callable[[], Any]] = [lambda: FineTuneJobs(ours, image)]
        kinds += [PyTorchJobs] if arguments.peer else []
        kinds += [lambda: BareRequests(ours)] if arguments.bare else []
        for _ in range(arguments.runs):
            for number in arguments.jobs:
                for kind in kinds:
                    line = json.dumps(_measured(kind(), number, arguments))
                    print(line, flush=True)
                    if arguments.out:
                        with arguments.out.open("a") as file:
                            file.write(line + "\n")


if __name__ == "__main__":
    main()
