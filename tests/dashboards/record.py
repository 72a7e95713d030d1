"""Records what the dashboards show: real jobs on the embedded cluster, scraped by a real Prometheus.

`python tests/dashboards/record.py FOLDER` leaves Prometheus' data and `period.json` in FOLDER, for `draw.py`. It
takes a quarter of an hour, and needs what the cluster needs (cluster/README.md) and `prometheus`.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dashboards.server import INTERVAL, serving
from e2e.jobs import Jobs
from finetune_cluster.choice import chosen_cluster
from finetune_demo.materials import prepare
from finetune_demo.platform import CHART, Platform

Json = dict[str, Any]
NAMESPACE = "reviews"
ONE_GPU = {"gpusPerNode": 1, "limits": {"memory": "3Gi"}}


def scrape(folder: Path) -> Json:
    """What the chart's ServiceMonitor and PodMonitor say. Debian's Prometheus cannot ask Kubernetes for pods."""
    return {
        "global": {"scrape_interval": f"{INTERVAL}s", "evaluation_interval": f"{INTERVAL}s"},
        "rule_files": [str(CHART / "files" / "rules.yaml")],
        "scrape_configs": [
            {
                "job_name": component,
                "honor_labels": component == "operator",
                "file_sd_configs": [{"files": [str(folder / f"{component}.json")], "refresh_interval": "1s"}],
            }
            for component in ("operator", "trainer")
        ],
    }


def targets(platform: Platform, component: str) -> list[Json]:
    """The pods of a component that run, as their monitor labels them."""
    pods = platform.get("pods", "--all-namespaces", "-l", f"app.kubernetes.io/component={component}")["items"]
    return [_target(pod) for pod in pods if pod["status"].get("phase") == "Running"]


def _target(pod: Json) -> Json:
    meta, (container,) = pod["metadata"], pod["spec"]["containers"]
    labels = {"namespace": meta["namespace"], "pod": meta["name"]}
    for label, name in (("finetune.dev/job-name", "name"), ("finetune.dev/attempt", "attempt")):
        if label in meta["labels"]:
            labels[name] = meta["labels"][label]
    port = next(port["containerPort"] for port in container["ports"] if port["name"] in ("http", "metrics"))
    return {"targets": [f"{pod['status']['podIP']}:{port}"], "labels": labels}


@contextmanager
def discovering(platform: Platform, folder: Path) -> Iterator[None]:
    """Write the targets of Prometheus every two seconds."""
    over = threading.Event()

    def write() -> None:
        while not over.wait(2):
            for component in ("operator", "trainer"):
                (folder / f"{component}.new").write_text(json.dumps(targets(platform, component)))
                (folder / f"{component}.new").replace(folder / f"{component}.json")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def spec(rows: str = "few.jsonl", **training: Any) -> Json:
    """A classification of reviews; `training` overrides."""
    return {
        "model": {"uri": "pvc://demo/models/minilm", "freeze": {"embeddings": True, "layers": 4}},
        "dataset": {"train": {"uri": f"pvc://demo/data/{rows}"}, "preprocessing": {"maxLength": 48}},
        "objective": {"classification": {}},
        "training": {
            "epochs": 10,
            "microBatchSize": 32,
            "optimizer": {"learningRate": 5e-4},
            "evaluation": {"every": {"steps": 6}, "bestMetric": "accuracy"},
            "earlyStopping": {"patience": 20},
            "checkpoint": {"every": {"steps": 12}},
        }
        | training,
        "resources": ONE_GPU,
    }


def search() -> Json:
    """Six trials, two at a time; the worse ones are pruned, and the three best become an ensemble."""
    rates = {"path": "training.optimizer.learningRate", "logUniform": {"min": 1e-5, "max": 3e-3}}
    found = {"parameters": [rates], "maxTrials": 6, "parallelism": 2, "pruner": {"asha": {}}}
    training = {"epochs": 3, "evaluation": {"bestMetric": "accuracy"}}
    return spec(**training) | {"search": found, "ensemble": {"fromSearch": 3}}


def live(jobs: Jobs) -> None:
    """One that cannot start, one that fails, one whose pod is deleted, and a search."""
    jobs.apply("wants-8-gpus", spec() | {"resources": ONE_GPU | {"gpusPerNode": 8}})
    jobs.apply("broken-rows", spec("broken.jsonl"))
    jobs.apply("movie-sentiment", spec())
    jobs.wait("movie-sentiment", "past two checkpoints", lambda status: _step(status) >= 40, 600)
    (pod,) = [one for one in jobs.children("pods", "movie-sentiment") if one["status"]["phase"] == "Running"]
    name = pod["metadata"]["name"]
    jobs.platform.kubectl("delete", "pod", "-n", jobs.namespace, name, "--force", "--grace-period=0")
    jobs.apply("tune-sentiment", search())
    for name in ("movie-sentiment", "tune-sentiment"):
        jobs.wait_phase(name, "Succeeded", 1200)
    time.sleep(4 * INTERVAL)  # the end is scraped too


def _step(status: Json) -> int:
    return int((status.get("progress") or {}).get("step") or 0)


def materials(folder: Path) -> Path:
    """The demo's model and reviews, the first 400, and some that are no JSON."""
    prepare(folder)
    rows = (folder / "data" / "movie-reviews.jsonl").read_text().splitlines()
    (folder / "data" / "few.jsonl").write_text("\n".join(rows[:400]) + "\n")
    (folder / "data" / "broken.jsonl").write_text("\n".join([*rows[:20], '{"text": "no end']) + "\n")
    return folder


@contextmanager
def cluster() -> Iterator[Platform]:
    """The cluster with the operator; removed at the end."""
    chosen = chosen_cluster()
    try:
        chosen.up()
        platform = Platform(chosen.kubeconfig, chosen.images())
        platform.install_operator("defaults.output.size=1Gi")
        platform.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield platform
    finally:
        chosen.down()


def main(folder: Path) -> None:
    """Record into a new folder."""
    folder.mkdir(parents=True)
    with cluster() as platform:
        platform.make_claim(NAMESPACE, "demo")
        platform.copy_in(NAMESPACE, "demo", materials(folder / "materials"))
        begin = time.time()
        with serving(folder, scrape(folder)), discovering(platform, folder):
            try:
                live(Jobs(platform, NAMESPACE))
            finally:
                (folder / "period.json").write_text(json.dumps({"from": begin, "to": time.time()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
