"""Records what the dashboards show: real jobs on the embedded cluster, scraped by a real Prometheus.

`python tests/dashboards/record.py FOLDER` leaves Prometheus' data and `period.json` in FOLDER, for `draw.py`. It
takes a quarter of an hour, and needs what the cluster needs (cluster/README.md).
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dashboards.server import INTERVAL
from e2e.jobs import Jobs
from finetune_cluster.choice import chosen_cluster
from finetune_cluster.errors import ClusterError
from finetune_demo.materials import prepare
from finetune_demo.monitoring import prometheus
from finetune_demo.platform import Platform
from ports import free_port

Json = dict[str, Any]
NAMESPACE = "reviews"
ONE_GPU = {"gpusPerNode": 1, "limits": {"memory": "3Gi"}}


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
            "evaluation": {"every": {"steps": 6}, "bestMetric": "accuracy", "baseline": True},
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
    """One that cannot start, one in a queue, one that fails, one whose pod is deleted, and a search."""
    jobs.apply("wants-8-gpus", spec() | {"resources": ONE_GPU | {"gpusPerNode": 8}})
    jobs.apply("in-a-queue", spec() | {"scheduling": {"queue": "team-a"}})
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
    """The cluster with the operator; removed at the end, unless it ran before."""
    chosen = chosen_cluster()
    was_running = _runs(chosen)
    try:
        chosen.up()
        platform = Platform(chosen.kubeconfig, chosen.images())
        platform.install_operator("defaults.output.size=1Gi", "replicas=2")
        platform.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield platform
    finally:
        if not was_running:
            chosen.down()


def _runs(chosen: Any) -> bool:
    with suppress(ClusterError):
        return bool(chosen.kubeconfig)
    return False


def main(folder: Path) -> None:
    """Record into a new folder."""
    folder.mkdir(parents=True)
    with cluster() as platform:
        platform.make_claim(NAMESPACE, "demo")
        platform.copy_in(NAMESPACE, "demo", materials(folder / "materials"))
        begin = time.time()
        with prometheus(platform.kubeconfig, free_port(), f"{INTERVAL}s", data=folder / "data"):
            try:
                live(Jobs(platform, NAMESPACE))
            finally:
                (folder / "period.json").write_text(json.dumps({"from": begin, "to": time.time()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
