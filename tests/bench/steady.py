"""An operator at work for a while: jobs that come at a rate, running jobs that report, and thousands that have ended.

    python -m tests.bench.steady [--rate 20] [--reporting 1000] [--ended 5000] [--seconds 60]

A real API server for each figure. Reports come with pods' own tokens, over TLS, one connection each, from as many
addresses as there are jobs. A status is as old as the report that it shows; that is looked at every second.
"""

import argparse
import asyncio
import json
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).parents[2] / folder) for folder in ("tests", "api", "core", "operator", "cluster")
]

from bench.operator_cost import (  # noqa: E402
    CLIENTS,
    NAMESPACE,
    Course,
    FineTuneJobs,
    prepare,
    submit,
)
from bench.sightings import cpu_seconds, megabytes, percentile, watch  # noqa: E402
from finetune_api.run import RunReport  # noqa: E402
from finetune_api.status import ProgressStatus  # noqa: E402
from finetune_cluster.apiserver import ApiServer  # noqa: E402
from integration.operator_rig import (  # noqa: E402
    CHILDREN,
    JOBS,
    PODS,
    TRAINER,
    Json,
    Operator,
    Rest,
    World,
    install_crd,
    running,
    until,
)
from ports import free_port  # noqa: E402

_EVERY = 5.0
"""Seconds between the reports of a trainer."""
_PATIENCE = 900.0
_COMPARED_AGAIN = 90.0
"""Seconds after its start in which an operator has compared everything for the second time."""


def at_a_rate(server: ApiServer, folder: Path, rate: float, seconds: float) -> Json:
    """From POST to child while jobs come at a steady rate."""
    rest, kind = Rest(server), FineTuneJobs({"allowed_images": [TRAINER]})
    kind.prepare(rest)
    prepare(rest, NAMESPACE, pods=False)
    course, total = Course(kind), round(rate * seconds)
    with kind.operator(server, folder) as process, ThreadPoolExecutor(CLIENTS) as pool:
        course.watch(server, NAMESPACE)
        time.sleep(2)
        begun, used = time.perf_counter(), cpu_seconds(process)
        for number in range(total):
            time.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            pool.submit(submit, rest, course, NAMESPACE, [f"job-{number:05}"])
        until(lambda: len(course.born) >= total, "all children are seen", _PATIENCE)
        took, waits = time.perf_counter() - begun, course.waits()
        return {
            "jobs": total,
            "jobsPerSecond": round(total / took, 1),
            "childP50": round(percentile(waits, 0.5), 3),
            "childP99": round(percentile(waits, 0.99), 3),
            "cpuShare": round((cpu_seconds(process) - used) / took, 3),
        }


@dataclass
class Trainer:
    """A pod that reports."""

    name: str
    token: str
    address: str
    sent: list[float] = field(default_factory=list)
    """When each step was reported."""
    shown: int = 0
    """The last step in the status."""
    refused: int = 0

    async def report(self, port: int, tls: ssl.SSLContext) -> None:
        """Report the next step."""
        self.sent.append(time.perf_counter())
        step = len(self.sent)
        progress = ProgressStatus(step=step, total_steps=10_000, loss=1 / step)
        body = json.dumps({"runReport": RunReport(progress=progress).to_json()}).encode()
        lines = ["POST /v1/progress HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
        head = "\r\n".join([*lines, f"Authorization: Bearer {self.token}", "", ""]).encode()
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=(self.address, 0), ssl=tls, server_hostname="127.0.0.1"
        )
        writer.write(head + body)
        self.refused += b" 200 " not in await reader.readline()
        writer.close()


def trainers_of(world: World, number: int) -> list[Trainer]:
    """As many jobs, whose pods run."""
    names = [f"job-{index:05}" for index in range(number)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda name: world.apply(name, output={"uri": f"pvc://demo/{name}"}), names))
        until(lambda: len(world.rest.items(world.at(PODS))) >= number, "all pods are made", _PATIENCE)
        pods = {
            one["metadata"]["labels"]["finetune.dev/job-name"]: one["metadata"]["name"]
            for one in world.rest.items(world.at(PODS))
        }

        def start(index: int) -> Trainer:
            pod = pods[names[index]]
            world.bind(pod)
            world.start_container(pod)
            return Trainer(names[index], world.token(pod), f"127.{9 + index // 250}.0.{1 + index % 250}")

        return list(pool.map(start, range(number)))


async def all_report(trainers: list[Trainer], port: int, authority: str, seconds: float) -> None:
    """Every trainer at its interval, spread over it."""
    tls = ssl.create_default_context(cadata=authority)
    until_then = time.perf_counter() + seconds

    async def again(trainer: Trainer, index: int) -> None:
        await asyncio.sleep(_EVERY * index / len(trainers))
        while (begun := time.perf_counter()) < until_then:
            await trainer.report(port, tls)
            await asyncio.sleep(max(0.0, begun + _EVERY - time.perf_counter()))

    await asyncio.gather(*[again(trainer, index) for index, trainer in enumerate(trainers)])


def reporting(server: ApiServer, folder: Path, number: int, seconds: float) -> Json:
    """How old statuses are while trainers report, and what that costs."""
    rest, port = Rest(server), free_port()
    install_crd(rest)
    prepare(rest, NAMESPACE, pods=True)
    settings = {
        "progress_url": f"https://127.0.0.1:{port}",
        "progress_port": port,
        "tls_folder": folder / "tls",
    }
    with running(server.kubeconfig, folder, **settings) as operator:
        world = World(rest, NAMESPACE)
        trainers = trainers_of(world, number)
        of = {trainer.name: trainer for trainer in trainers}
        until(lambda: _running(rest) >= number, "all jobs run", _PATIENCE)

        def see(body: Json, _: float) -> None:
            step = ((body.get("status") or {}).get("progress") or {}).get("step") or 0
            of[body["metadata"]["name"]].shown = step

        watch(server, JOBS.format(NAMESPACE), see)
        authority = world.files(trainers[0].name)[0]["ca.crt"]
        warm = 4 * _EVERY
        work = threading.Thread(
            target=lambda: asyncio.run(all_report(trainers, port, authority, warm + seconds))
        )
        work.start()
        time.sleep(warm)
        found = _observed(operator, trainers, seconds)
        work.join()
        return {"jobs": number, "refused": sum(one.refused for one in trainers)} | found


def _running(rest: Rest) -> int:
    found = rest.items(JOBS.format(NAMESPACE))
    return sum((one.get("status") or {}).get("phase") == "Running" for one in found)


def _observed(operator: Operator, trainers: list[Trainer], seconds: float) -> Json:
    ages, begun = list[float](), time.perf_counter()
    used, writes = cpu_seconds(operator.process), operator.writes()
    sent = sum(len(one.sent) for one in trainers)
    while (now := time.perf_counter()) < begun + seconds:
        ages += [now - one.sent[max(one.shown, 1) - 1] for one in trainers]
        time.sleep(1)
    took = now - begun
    return {
        "reportsPerSecond": round((sum(len(one.sent) for one in trainers) - sent) / took, 1),
        "ageP50": round(percentile(ages, 0.5), 1),
        "ageP99": round(percentile(ages, 0.99), 1),
        "writesPerSecond": round((operator.writes() - writes) / took, 1),
        "cpuShare": round((cpu_seconds(operator.process) - used) / took, 3),
        "peakMiB": round(megabytes(operator.process, "VmHWM")),
    }


def ended(server: ApiServer, folder: Path, number: int, seconds: float) -> Json:
    """What an operator uses that has nothing to do, and what a comparison with the API server uses."""
    rest, kind = Rest(server), FineTuneJobs()
    kind.prepare(rest)
    prepare(rest, NAMESPACE, pods=False)
    status = {
        "phase": "Succeeded",
        "observedGeneration": 1,
        "completionTime": "2026-01-01T00:00:00Z",
        "conditions": [],
    }

    def put(name: str) -> None:
        made = rest("POST", JOBS.format(NAMESPACE), kind.job(name))
        rest("PUT", JOBS.format(NAMESPACE) + f"/{name}/status", made | {"status": status})

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(put, [f"job-{index:05}" for index in range(number)]))
    with running(server.kubeconfig, folder) as operator:
        started = time.perf_counter()
        _rests(operator)
        before = cpu_seconds(operator.process)
        time.sleep(max(0.0, started + _COMPARED_AGAIN - time.perf_counter()))
        compared = cpu_seconds(operator.process) - before
        used = cpu_seconds(operator.process)
        time.sleep(seconds)
        return {
            "jobs": number,
            "cpuShareAtRest": round((cpu_seconds(operator.process) - used) / seconds, 4),
            "cpuSecondsOfAComparison": round(compared, 2),
            "writes": operator.writes(),
            "children": len(rest.items(CHILDREN.format(NAMESPACE))),
            "MiB": round(megabytes(operator.process)),
        }


def _rests(operator: Operator) -> None:
    """Wait until it has used nothing for three seconds."""

    def still() -> bool:
        before = cpu_seconds(operator.process)
        time.sleep(3)
        return cpu_seconds(operator.process) - before < 0.05

    until(still, "it rests", _PATIENCE)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, help="jobs per second")
    parser.add_argument("--reporting", type=int, help="running jobs")
    parser.add_argument("--ended", type=int, help="jobs that have ended")
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    parts: dict[str, tuple[Callable[..., Json], float | None, bool]] = {
        "rate": (at_a_rate, asked.rate, False),
        "reporting": (reporting, asked.reporting, True),
        "ended": (ended, asked.ended, False),
    }
    for name, (part, number, controllers) in parts.items():
        if number is None:
            continue
        with (
            ApiServer.start(controllers=controllers) as server,
            tempfile.TemporaryDirectory() as folder,
        ):
            print(
                json.dumps({"figure": name} | part(server, Path(folder), number, asked.seconds)), flush=True
            )


if __name__ == "__main__":
    main()
