"""Simulated GPUs that the node reports: tests the scheduling of GPU jobs, not CUDA."""

import json
import os

from finetune_cluster.errors import ClusterError
from finetune_cluster.kubectl import Kubectl
from finetune_cluster.readiness import wait_until

_RESOURCE = "nvidia.com/gpu"


def wanted_gpus() -> int:
    """SIMULATED_GPUS from the environment, 4 without it."""
    text = os.environ.get("SIMULATED_GPUS", "4")
    if not text.isdigit():
        raise ClusterError(f"SIMULATED_GPUS must be a whole number, not {text!r}")
    return int(text)


def simulated_gpus(kubectl: Kubectl, node: str) -> int:
    """How many GPUs pods can have on the node."""
    status = kubectl.get("node", node)["status"]
    shown = {int(status.get(part, {}).get(_RESOURCE, 0)) for part in ("capacity", "allocatable")}
    return min(shown)


def simulate_gpus(kubectl: Kubectl, node: str, count: int) -> None:
    """Make the node report `count` GPUs; the kubelet takes them back whenever it starts."""

    def reported() -> bool:
        if simulated_gpus(kubectl, node) == count:
            return True
        kubectl.run("patch", "node", node, "--subresource=status", "--type=json", f"--patch={_patch(count)}")
        return False

    wait_until(reported, "The simulated GPUs", seconds=30)


def _patch(count: int) -> str:
    name = _RESOURCE.replace("/", "~1")
    parts = ("capacity", "allocatable")
    return json.dumps(
        [{"op": "add", "path": f"/status/{part}/{name}", "value": str(count)} for part in parts]
    )
