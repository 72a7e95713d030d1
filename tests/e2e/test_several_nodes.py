"""Two pods of one attempt on a real node, over gloo and the cluster's DNS. `test_several_nodes_long.py` has four."""

from pathlib import Path

import pytest
import yaml

from e2e.jobs import ONE_THREAD, SLOW, Body, Jobs, tiny
from finetune_trainer.files import sha256

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "two-nodes.yaml"
ON_ONE_MACHINE = {"topologyKey": "kubernetes.io/hostname"}
_KILL_ALL = """
import os, signal
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid()):
        os.kill(int(name), signal.SIGKILL)
"""
"""All processes of a container but the first, which cannot be killed from inside and ends with them."""
_STEPS = 200
pytestmark = pytest.mark.timeout(2 * SLOW)


def sharded(**resources: int) -> Body:
    """The example's way to train, on the tiny model."""
    example = yaml.safe_load(EXAMPLE.read_text())["spec"]
    assert example["resources"] == {"nodes": 2, "gpusPerNode": 1}
    spec = tiny(_STEPS, resources=resources or example["resources"])
    spec["training"]["sharding"] = example["training"]["sharding"]
    # as many threads in a pod with two processes as in one of two pods: sums have the same order
    return spec | {"env": [{"name": "OMP_NUM_THREADS", "value": "1"}]}


def kill_pod(jobs: Jobs, pod: str) -> None:
    """SIGKILL for all processes of its container."""
    jobs.platform.kubectl("exec", "-n", jobs.namespace, pod, "--", "python", "-c", _KILL_ALL)


def weights_of(jobs: Jobs, status: Body, folder: Path) -> str:
    claim, _, path = status["model"]["uri"].removeprefix("pvc://").partition("/")
    jobs.platform.copy_out(jobs.namespace, claim, path, folder)
    return sha256(folder / "model.safetensors")


def test_two_pods_of_which_one_is_killed_give_the_bytes_of_two_processes_in_one(
    jobs: Jobs, tmp_path: Path
) -> None:
    jobs.apply("two-nodes", sharded() | {"scheduling": ON_ONE_MACHINE})
    jobs.wait_step("two-nodes", 20)
    pods = sorted(pod["metadata"]["name"] for pod in jobs.children("pod", "two-nodes"))
    assert len(pods) == 2
    kill_pod(jobs, pods[1])
    status = jobs.wait_phase("two-nodes", "Succeeded", SLOW)
    first, second = status["attempts"]
    assert first["reason"] == "Killed", "not what the other pod said of it"
    assert (second["fromStep"] >= 20, second["toStep"]) == (True, _STEPS)
    assert (status["effective"]["processes"], status["display"]["gpus"]) == (2, "2×1")
    jobs.apply("one-node", sharded(gpusPerNode=2))
    alone = jobs.wait_phase("one-node", "Succeeded", SLOW)
    found = [weights_of(jobs, one, tmp_path / str(n)) for n, one in enumerate((status, alone))]
    assert found[0] == found[1]


def test_torchrun_accelerate_and_python_join_the_other_pod_by_themselves(jobs: Jobs) -> None:
    script = "/mnt/claims/demo/scripts/world_script.py"
    ways = [
        f"{launcher} {script} 2 {launcher.split()[0]}"
        for launcher in ("torchrun", "accelerate launch", "python")
    ]
    spec = script_of("sh", "-c", " && ".join(ways))
    jobs.apply("launchers", spec)
    status = jobs.wait_phase("launchers", "Succeeded", SLOW)
    assert len(status["attempts"]) == 1


def test_two_pods_that_train_apart_are_stopped_with_that_sentence(jobs: Jobs) -> None:
    unset = [part for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") for part in ("-u", name)]
    spec = script_of("env", *unset, "python", "/mnt/claims/demo/scripts/train.py")
    spec |= {"env": [{"name": "EPOCHS", "value": "400"}, ONE_THREAD]}
    jobs.apply("apart", spec)
    status = jobs.wait("apart", "failed", lambda one: one.get("phase") == "Failed")
    assert "both report as process zero" in status["display"]["message"]
    assert status["attempts"][0]["reason"] == "PodsApart"


def script_of(*command: str) -> Body:
    """A script in two pods on the CPU."""
    return {
        "command": list(command),
        "model": {"uri": "pvc://demo/models/tiny"},
        "dataset": {"train": {"uri": "pvc://demo/data/few.jsonl"}},
        "resources": {"nodes": 2, "gpusPerNode": 0},
        "scheduling": ON_ONE_MACHINE,
    }
