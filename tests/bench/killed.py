"""On the real node: a job whose pod is killed ten times, beside the same one undisturbed.

    make cluster && python tests/bench/killed.py

MiniLM on the demo's reviews. What each attempt repeats, what the status says of the time, and whether the model has the
same bytes.
"""

import tempfile
import time
from pathlib import Path

from e2e.jobs import Body, Jobs
from finetune_cluster.choice import chosen_cluster
from finetune_demo.materials import prepare
from finetune_demo.platform import Platform
from finetune_trainer.files import sha256

NAMESPACE = "bench-killed"
KILLS, STEPS, EVERY, BETWEEN = 10, 1000, 10, 30
"""Of the pod; of the job; from checkpoint to checkpoint; from the resumed step to a kill."""
_PATIENCE = 1800


def main() -> None:
    """Print the attempts, the usage of both jobs, and whether their weights are alike."""
    cluster = chosen_cluster()
    cluster.up()
    platform = Platform(cluster.kubeconfig, cluster.images("operator", "trainer"))
    platform.install_operator("defaults.output.size=1Gi")
    platform.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s")
    platform.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    jobs = Jobs(platform, NAMESPACE)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(folder / "in")
        platform.make_claim(NAMESPACE, "demo")
        platform.copy_in(NAMESPACE, "demo", folder / "in")
        whole = _run(jobs, "undisturbed", kills=0)
        killed = _run(jobs, "killed", kills=KILLS)
        digests = {_weights(jobs, status, folder / name) for name, status in (("a", whole), ("b", killed))}
    for attempt in killed["attempts"]:
        print({name: attempt.get(name) for name in ("number", "reason", "fromStep", "toStep", "lostSteps")})
    for name, status in (("undisturbed", whole), ("killed", killed)):
        print(name, f"{status['wallSeconds']:.0f} s", status["usage"])
    print("the weights are alike" if len(digests) == 1 else "the weights differ")
    platform.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _run(jobs: Jobs, name: str, kills: int) -> Body:
    applied = time.monotonic()
    jobs.apply(name, _spec())
    for number in range(1, kills + 1):
        _kill(jobs, name, number)
    status = jobs.wait_phase(name, "Succeeded", _PATIENCE)
    return status | {"wallSeconds": time.monotonic() - applied}


def _kill(jobs: Jobs, name: str, attempt: int) -> None:
    """SIGKILL for the pod of an attempt that has trained for a while."""
    jobs.wait(name, f"in attempt {attempt}", lambda status: _ran(status, attempt) >= BETWEEN, _PATIENCE)
    (pod,) = [one for one in jobs.children("pod", name) if _attempt(one) == attempt]
    target = ("pod", pod["metadata"]["name"], "-n", jobs.namespace)
    jobs.platform.kubectl("delete", *target, "--force", "--grace-period=0")


def _ran(status: Body, attempt: int) -> int:
    """Steps that this attempt has made."""
    if status.get("attempt") != attempt or status.get("phase") != "Running":
        return 0
    begun = status["attempts"][-1].get("fromStep", 0 if attempt == 1 else None)
    if begun is None:  # it has not reported yet
        return 0
    return int((status.get("progress") or {}).get("step") or 0) - begun


def _attempt(pod: Body) -> int:
    """0 for the pod of its preflight."""
    return int(pod["metadata"]["labels"].get("finetune.dev/attempt", 0))


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
        "retry": {"limit": KILLS},
    }


if __name__ == "__main__":
    main()
