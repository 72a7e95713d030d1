"""On the real node: a job whose trainer gets SIGKILL ten times, beside the same one undisturbed.

    make cluster && python tests/bench/killed.py

MiniLM on the demo's reviews. What each attempt repeats, what the status says of it, and whether the model has the same
bytes.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.jobs import Body, Jobs
from e2e.test_signals import pod_of
from e2e.test_signals_long import TRAINS
from finetune_cluster.choice import chosen_cluster
from finetune_core.plan.run_config import METRICS_PORT
from finetune_demo.materials import prepare
from finetune_demo.platform import SYSTEM, Platform
from finetune_trainer.files import sha256
from finetune_trainer.reporting.metrics import STEPS as COUNTER

NAMESPACE = "bench-killed"
STEPS, EVERY = 1500, 50
"""Of the job; from checkpoint to checkpoint."""
KILLED_AFTER = range(109, 191, 9)
"""Steps of each attempt that is killed, of which it loses 9, 18, 27, …: at a checkpoint every 50."""
_PATIENCE = 1800
_KILL = """
import time, urllib.request
def made():
    lines = urllib.request.urlopen("http://localhost:{port}/metrics").read().decode().splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("{counter} "))))
while (steps := made()) < {after}:
    time.sleep(0.05)
os.kill(trains, 19)
print(steps, flush=True)
if os.fork() == 0:
    os.setsid()
    os.closerange(0, 3)
    time.sleep(0.5)
    os.kill(trains, 9)
"""
"""After TRAINS: stop the trainer at this step or a later one, print the step, then kill the trainer."""


def main() -> None:
    """Print the attempts, the usage of both jobs, and whether their weights are alike."""
    cluster = chosen_cluster()
    cluster.up()
    platform = Platform(cluster.kubeconfig, cluster.images("operator", "trainer"))
    platform.install_operator("defaults.output.size=1Gi")
    with _no_pauses(platform):
        _compare(platform)


@contextmanager
def _no_pauses(platform: Platform) -> Iterator[None]:
    """Retries follow at once: the pauses between ten would take half an hour, and cost no GPU time."""
    target, name = ("deployment/finetune-operator", "-n", SYSTEM), "FINETUNE_OPERATOR_RETRY_BACKOFF"
    try:
        platform.kubectl("set", "env", *target, f"{name}=0")
        platform.kubectl("rollout", "status", *target, "--timeout=180s")
        yield
    finally:
        platform.kubectl("set", "env", *target, f"{name}-")


def _compare(platform: Platform) -> None:
    platform.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s")
    platform.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    jobs = Jobs(platform, NAMESPACE)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(folder / "in")
        platform.make_claim(NAMESPACE, "demo")
        platform.copy_in(NAMESPACE, "demo", folder / "in")
        whole, _ = _run(jobs, "undisturbed", range(0))
        killed, made = _run(jobs, "killed", KILLED_AFTER)
        digests = {_weights(jobs, status, folder / name) for name, status in (("a", whole), ("b", killed))}
    for attempt in killed["attempts"]:
        shown = ("number", "reason", "exitCode", "counted", "fromStep", "toStep", "lostSteps", "gpuSeconds")
        print({name: attempt.get(name) for name in shown}, "made", made.get(attempt["number"]))
    for name, status in (("undisturbed", whole), ("killed", killed)):
        print(name, f"{status['wallSeconds']:.0f} s", status["usage"])
    print("the weights are alike" if len(digests) == 1 else "the weights differ")
    platform.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _run(jobs: Jobs, name: str, killed_after: range) -> tuple[Body, dict[int, int]]:
    """Its last status, and the steps that each killed attempt made."""
    applied = time.monotonic()
    jobs.apply(name, _spec())
    made = {number: _kill(jobs, name, number, after) for number, after in enumerate(killed_after, 1)}
    status = jobs.wait_phase(name, "Succeeded", _PATIENCE)
    return status | {"wallSeconds": time.monotonic() - applied}, made


def _kill(jobs: Jobs, name: str, attempt: int, after: int) -> int:
    jobs.wait(name, f"in attempt {attempt}", lambda status: _trains(status, attempt), _PATIENCE)
    script = TRAINS + _KILL.format(port=METRICS_PORT, counter=COUNTER.name, after=after)
    target = ("exec", "-n", jobs.namespace, pod_of(jobs, name, attempt), "--", "python", "-c")
    made = int(jobs.platform.kubectl(*target, script))
    print(f"attempt {attempt} killed after {made} steps", flush=True)
    return made


def _trains(status: Body, attempt: int) -> bool:
    last = (status.get("attempts") or [{}])[-1]
    return last.get("number") == attempt and last.get("toStep") is not None and not last.get("endTime")


def _weights(jobs: Jobs, status: Body, folder: Path) -> str:
    claim, _, path = status["model"]["uri"].removeprefix("pvc://").partition("/")
    jobs.platform.copy_out(jobs.namespace, claim, path, folder)
    return sha256(folder / "model.safetensors")


def _spec() -> Body:
    return {
        "model": {"uri": "pvc://demo/models/minilm"},
        "dataset": {
            "train": {"uri": "pvc://demo/data/movie-reviews.jsonl"},
            "preprocessing": {"maxLength": 64},
        },
        "objective": {"classification": {"labels": ["neg", "pos"]}},
        "training": {
            "maxSteps": STEPS,
            "batchSize": 16,
            "checkpoint": {"every": {"steps": EVERY}, "gracePeriodSeconds": 10},
        },
        "retry": {"limit": len(KILLED_AFTER)},
    }


if __name__ == "__main__":
    main()
