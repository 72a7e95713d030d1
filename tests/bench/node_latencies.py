"""On the real node: from kubectl apply to the first optimizer step, and from a killed pod to the next one.

    make cluster && python tests/bench/node_latencies.py

MiniLM on the demo's reviews. Times are the trainer's own log against the clock of this process, on one machine.
"""

import contextlib
import json
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from e2e.jobs import Jobs
from finetune_cluster.choice import chosen_cluster
from finetune_demo.materials import prepare
from finetune_demo.platform import Platform, PlatformError

NAMESPACE = "bench"
ROUNDS = 3


def main() -> None:
    """Print both figures as median and range."""
    cluster = chosen_cluster()
    cluster.up()
    platform = Platform(cluster.kubeconfig, cluster.images("operator", "trainer"))
    platform.install_operator("defaults.output.size=1Gi")
    platform.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s")
    platform.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        platform.make_claim(NAMESPACE, "demo")
        platform.copy_in(NAMESPACE, "demo", Path(folder))
    jobs = Jobs(platform, NAMESPACE)
    starts, returns = zip(*(_round(jobs, f"round-{number}") for number in range(ROUNDS)), strict=True)
    print(f"{'figure':<40} {'median':>8} {'min':>8} {'max':>8}   (seconds, {ROUNDS} rounds)")
    for name, values in (
        ("apply → first optimizer step", starts),
        ("pod killed → next optimizer step", returns),
    ):
        print(f"{name:<40} {statistics.median(values):>8.1f} {min(values):>8.1f} {max(values):>8.1f}")
    platform.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _round(jobs: Jobs, name: str) -> tuple[float, float]:
    applied = datetime.now(UTC)
    jobs.apply(name, _spec())
    first = _first_step(jobs, name, 1)
    jobs.wait_step(name, 5)
    (pod,) = jobs.children("pod", name)
    killed = datetime.now(UTC)
    target = ("pod", pod["metadata"]["name"], "-n", jobs.namespace)
    jobs.platform.kubectl("delete", *target, "--force", "--grace-period=0")
    second = _first_step(jobs, name, 2)
    jobs.platform.kubectl("delete", "ftj", name, "-n", jobs.namespace)
    return (first - applied).total_seconds(), (second - killed).total_seconds()


def _spec() -> dict:
    return {
        "model": {"uri": "pvc://demo/models/minilm"},
        "dataset": {
            "train": {"uri": "pvc://demo/data/movie-reviews.jsonl"},
            "preprocessing": {"maxLength": 64},
        },
        "objective": {"classification": {}},
        "training": {"maxSteps": 500, "checkpoint": {"every": {"steps": 5}, "gracePeriodSeconds": 10}},
    }


def _first_step(jobs: Jobs, name: str, attempt: int) -> datetime:
    """The time of the attempt's first log line about a step."""
    selector = f"finetune.dev/job-name={name},finetune.dev/attempt={attempt}"
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        with contextlib.suppress(PlatformError):  # no pod yet, or its container is being made
            log = jobs.platform.kubectl("logs", "-n", jobs.namespace, "-l", selector, "--tail=-1")
            for line in log.splitlines():
                if line.startswith("{") and (entry := json.loads(line)).get("event") == "train":
                    return datetime.fromisoformat(entry["time"])
        time.sleep(0.5)
    raise TimeoutError(f"{name} made no step in attempt {attempt}")


if __name__ == "__main__":
    main()
