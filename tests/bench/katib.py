"""Katib v0.19.0 with the plan of search_cost.py: from the end of a trial to the next trial's Job, writes, CPU, memory.

    python -m tests.bench.katib [TRIALS] [--parallelism N]

Builds Katib's controller and its suggestion service in Go (Goptuna's TPE) and runs both as processes, on a real API
server with its controllers. Pods are played by this process, and so is what is not measured: the database of metrics,
which has a result of every trial at once, and the webhooks, whose defaults are written out. Needs root and Go: the
names by which Katib finds its services are in a separate /etc/hosts, which only the controller sees.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import urllib3
import yaml

sys.path[:0] = [
    str(Path(__file__).parents[2] / folder) for folder in ("tests", "api", "core", "operator", "cluster")
]

from bench.sightings import cpu_seconds, megabytes, percentile, watch  # noqa: E402
from finetune_cluster.apiserver import ApiServer  # noqa: E402
from integration.operator_rig import (  # noqa: E402
    CHILDREN,
    CONFIG_MAPS,
    CRDS,
    MERGE,
    PODS,
    Json,
    Rest,
    World,
    make_namespace,
    now,
    until,
)

MODULE = "github.com/kubeflow/katib@v0.19.0"
PROGRAMS = {"controller": "./cmd/katib-controller/v1beta1", "suggestion": "./cmd/suggestion/goptuna/v1beta1"}
NAMESPACE, NAME = "bench", "cost"
KATIB = f"/apis/kubeflow.org/v1beta1/namespaces/{NAMESPACE}"
SERVICES = f"127.0.0.1 localhost katib-db-manager.kubeflow {NAME}-tpe.{NAMESPACE}\n"
DATABASE_PORT, METRICS_PORT = 6799, 18080
CONFIG: Json = {
    "apiVersion": "config.kubeflow.org/v1beta1",
    "kind": "KatibConfig",
    "init": {
        "certGenerator": {"enable": False},
        "controller": {
            "webhookPort": 18443,
            "metricsAddr": f"127.0.0.1:{METRICS_PORT}",
            "healthzAddr": "127.0.0.1:18081",
            "trialResources": ["Job.v1.batch"],
        },
    },
    "runtime": {
        "metricsCollectors": [{"kind": "StdOut", "image": "played:1"}],
        "suggestions": [{"algorithmName": "tpe", "image": "played:1"}],
    },
}
START = """set -e
mount --bind "$1/hosts" /etc/hosts
mount -t tmpfs none /tmp
cp -r "$1/cert" /tmp/cert
exec env KUBECONFIG="$1/kubeconfig" KATIB_DB_MANAGER_SERVICE_PORT="$2" "$1/controller" --katib-config="$1/config.yaml"
"""


@dataclass
class Course:
    """When a client first saw what, by the name of the trial; filled by threads of watches."""

    pods: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    born: dict[str, float] = field(default_factory=dict)
    jobs: dict[str, float] = field(default_factory=dict)


def build(folder: Path) -> Path:
    """Katib's programs; returns the folder of its sources."""
    found = subprocess.run(["go", "mod", "download", "-json", MODULE], check=True, capture_output=True)
    source = Path(json.loads(found.stdout)["Dir"])
    for name, package in PROGRAMS.items():
        subprocess.run(["go", "build", "-C", source, "-o", folder / name, package], check=True)
    return source


def database(port: int) -> grpc.Server:
    """What the controller asks of katib-db-manager: the metrics of a trial, here digits of its name's checksum."""

    def text(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    def log(request: bytes, _: Any) -> bytes:
        loss = b"0.1%d" % zlib.adler32(request)
        metric = text(1, b"loss") + text(2, loss)
        return text(1, text(1, text(1, b"2026-01-01T00:00:00Z") + text(2, metric)))

    handlers = {
        name: grpc.unary_unary_rpc_method_handler(answer)
        for name, answer in {"GetObservationLog": log, "DeleteObservationLog": lambda *_: b""}.items()
    }
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("api.v1.beta1.DBManager", handlers)]
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server


@contextmanager
def running(server: ApiServer, folder: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Katib's controller, in a separate mount namespace, and its suggestion service."""
    (folder / "hosts").write_text(SERVICES)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "kubeconfig").write_bytes(server.kubeconfig.read_bytes())
    (folder / "cert").mkdir()
    key, certificate = folder / "cert/tls.key", folder / "cert/tls.crt"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=katib"]
    subprocess.run([*request, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    start = ["unshare", "-m", "bash", "-c", START, "start", folder, str(DATABASE_PORT)]
    stored, processes = database(DATABASE_PORT), []
    try:
        for name, command in {"controller": start, "suggestion": [folder / "suggestion"]}.items():
            with (folder / f"{name}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        until(lambda: requests() is not None, f"the controller answers; see {folder}/controller.log")
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
        stored.stop(None)


def requests() -> Counter[str] | None:
    """The controller's requests to the API server by their verb; None while it does not answer."""
    found: Counter[str] = Counter()
    try:
        page = urllib3.request("GET", f"http://127.0.0.1:{METRICS_PORT}/metrics", retries=False).data.decode()
    except urllib3.exceptions.HTTPError:
        return None
    for line in page.splitlines():
        if line.startswith("rest_client_requests_total"):
            found[line.partition('method="')[2].partition('"')[0]] += int(float(line.rpartition(" ")[2]))
    return found


def experiment(trials: int, parallelism: int) -> Json:
    """The plan: a rate and a choice; with what Katib's webhook would fill in."""
    ended = 'status.conditions.#(type=="{}")#|#(status=="True")#'
    container = {
        "name": "trainer",
        "image": "played:1",
        "command": ["train", "${trialParameters.rate}", "${trialParameters.size}"],
    }
    job = {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}
    rates = {"min": "0.00001", "max": "0.01"}
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "objective": {
                "type": "minimize",
                "objectiveMetricName": "loss",
                "metricStrategies": [{"name": "loss", "value": "min"}],
            },
            "algorithm": {"algorithmName": "tpe"},
            "parallelTrialCount": parallelism,
            "maxTrialCount": trials,
            "maxFailedTrialCount": 3,
            "resumePolicy": "Never",
            "metricsCollectorSpec": {"collector": {"kind": "StdOut"}},
            "parameters": [
                {"name": "rate", "parameterType": "double", "feasibleSpace": rates},
                {
                    "name": "size",
                    "parameterType": "categorical",
                    "feasibleSpace": {"list": ["16", "32", "64"]},
                },
            ],
            "trialTemplate": {
                "primaryContainerName": "trainer",
                "retain": True,
                "successCondition": ended.format("Complete"),
                "failureCondition": ended.format("Failed"),
                "trialParameters": [{"name": name, "reference": name} for name in ("rate", "size")],
                "trialSpec": {"apiVersion": "batch/v1", "kind": "Job", "spec": job},
            },
        },
    }


def observe(server: ApiServer, world: World) -> Course:
    """Watch trials, Jobs and pods, and play the pods."""
    course, played = Course(), set[str]()

    def pod(body: Json, at: float) -> None:
        name = body["metadata"]["name"]
        owner = body["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name")
        if name not in played:
            played.add(name)
            threading.Thread(target=train if owner else serve, args=(world, name)).start()
        if owner and body["status"].get("phase") == "Succeeded":
            course.pods.setdefault(owner, at)

    def trial(body: Json, at: float) -> None:
        course.born.setdefault(body["metadata"]["name"], at)
        conditions = body.get("status", {}).get("conditions", [])
        if any(one["type"] == "Succeeded" and one["status"] == "True" for one in conditions):
            course.ended.setdefault(body["metadata"]["name"], at)

    watch(server, PODS.format(NAMESPACE), pod)
    watch(server, f"{KATIB}/trials", trial)
    watch(
        server,
        CHILDREN.format(NAMESPACE),
        lambda job, at: course.jobs.setdefault(job["metadata"]["name"], at),
    )
    return course


def train(world: World, pod: str) -> None:
    """The pod of a trial: it ends at once."""
    world.bind(pod)
    world.start_container(pod)
    world.end(pod, 0)


def serve(world: World, pod: str) -> None:
    """The pod of the suggestion service, which runs beside the cluster: it is ready."""
    world.bind(pod)
    ready = [
        {"type": kind, "status": "True", "lastTransitionTime": now()} for kind in ("Ready", "ContainersReady")
    ]
    status = {"phase": "Running", "startTime": now(), "conditions": ready}
    world.rest("PATCH", world.at(PODS, pod) + "/status", {"status": status}, MERGE)


def prepare(server: ApiServer, source: Path) -> World:
    """Katib's definitions and its configuration in the cluster."""
    rest = Rest(server)
    for name in ("experiment", "suggestion", "trial"):
        text = (source / f"manifests/v1beta1/components/crd/{name}.yaml").read_text()
        rest("POST", CRDS, yaml.safe_load(text))
        until(lambda name=name: rest.get(f"{KATIB}/{name}s"), f"{name}s are served")  # type: ignore[misc]
    make_namespace(rest, "kubeflow", inputs=False)
    config = {"metadata": {"name": "katib-config"}, "data": {"katib-config.yaml": yaml.safe_dump(CONFIG)}}
    rest("POST", CONFIG_MAPS.format("kubeflow"), config)
    return make_namespace(rest, NAMESPACE, inputs=False)


def ended(world: World) -> bool:
    """Whether the experiment has ended."""
    status = world.rest("GET", f"{KATIB}/experiments/{NAME}").get("status", {})
    return any(
        one["type"] in ("Succeeded", "Failed") and one["status"] == "True"
        for one in status.get("conditions", [])
    )


def steps(course: Course, parallelism: int) -> dict[str, list[float]]:
    """Milliseconds of each step from the end of a trial to the Job of the trial that takes its place."""
    names = sorted(course.born, key=course.born.__getitem__)
    pairs = zip(sorted(course.ended, key=course.ended.__getitem__), names[parallelism:], strict=False)
    points = [(course.pods[end], course.ended[end], course.born[new], course.jobs[new]) for end, new in pairs]
    return {
        "pod's end → trial's status": [1000 * (ended - end) for end, ended, _, _ in points],
        "trial's status → next trial": [1000 * (born - ended) for _, ended, born, _ in points],
        "next trial → its Job": [1000 * (job - born) for _, _, born, job in points],
        "pod's end → next trial's Job": [1000 * (job - end) for end, _, _, job in points],
    }


def arguments() -> argparse.Namespace:
    """Those of the command line."""
    parser = argparse.ArgumentParser(description="What a search costs Katib.")
    parser.add_argument("trials", nargs="?", type=int, default=60)
    parser.add_argument("--parallelism", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    given = arguments()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        source = build(folder)
        with ApiServer.start(controllers=True) as server:
            world = prepare(server, source)
            with running(server, folder) as processes:
                course, before, start = observe(server, world), requests() or Counter(), time.perf_counter()
                idle, cpu = [megabytes(one) for one in processes], sum(map(cpu_seconds, processes))
                world.rest("POST", f"{KATIB}/experiments", experiment(given.trials, given.parallelism))
                until(lambda: ended(world), "the experiment ends", 30.0 * given.trials)
                seconds, used = time.perf_counter() - start, sum(map(cpu_seconds, processes)) - cpu
                full, after = [megabytes(one) for one in processes], requests() or Counter()
    assert len(course.ended) == given.trials
    done = {verb: count / given.trials for verb, count in (after - before).items()}
    print(f"{'':50}    p50        p99")
    for step, times in steps(course, given.parallelism).items():
        print(f"{step:50} {statistics.median(times):6.0f} ms{percentile(times, 0.99):8.0f} ms")
    print(f"{'CPU per trial':50} {1000 * used / given.trials:.0f} ms")
    print(
        f"{'memory of controller and suggestion service':50} {sum(idle):.0f} MiB before, {sum(full):.0f} MiB after"
    )
    print(f"{'API writes per trial, with Events':50} {sum(done.values()) - done.get('GET', 0):.1f}")
    print(f"{'API reads per trial':50} {done.get('GET', 0):.1f}")
    print(f"{'the search':50} {seconds:.0f} s")


if __name__ == "__main__":
    main()
