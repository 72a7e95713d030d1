"""What kind is asked for: the cluster's configuration (pure). JSON is YAML, which kind reads."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CERTS = "/etc/containerd/certs.d"
"""Where containerd looks up registries. The folder of the host behind it shows whose cluster it is."""
RUNTIME = "/usr/local/sbin/runc-without-sys-resource"
_CAP_SYS_RESOURCE = 1 << 24
_CRI = "plugins.'io.containerd.grpc.v1.cri'"  # containerd 2 converts this form of its configuration


@dataclass(frozen=True)
class Node:
    """The one node: its image, the host's folder of registries, and what this machine needs."""

    image: str
    certs: Path
    cgroup_v1: bool = False
    runtime: Path | None = None
    """A runtime to use in place of runc, where root lacks a capability."""


def cluster(node: Node) -> str:
    """The configuration of a cluster with this node."""
    return json.dumps(
        {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "containerdConfigPatches": [_containerd(node)],
            "nodes": [
                {
                    "role": "control-plane",
                    "image": node.image,
                    "extraMounts": _mounts(node),
                    "kubeadmConfigPatches": [json.dumps(_kubelet(node))],
                }
            ],
        },
        indent=2,
    )


def owner_of(container: dict[str, Any]) -> Path | None:
    """The host's folder of registries, from `docker inspect` of a node; None if another program started it."""
    sources = [mount["Source"] for mount in container.get("Mounts") or () if mount["Destination"] == CERTS]
    return Path(sources[0]) if sources else None


def may_raise_limits(status: str) -> bool:
    """Whether root has CAP_SYS_RESOURCE, from /proc/self/status; runc needs it for privileged containers."""
    found = re.search(r"^CapBnd:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is None or bool(int(found[1], 16) & _CAP_SYS_RESOURCE)


def _mounts(node: Node) -> list[dict[str, Any]]:
    mounts = {CERTS: node.certs} | ({RUNTIME: node.runtime} if node.runtime else {})
    return [
        {"hostPath": str(path), "containerPath": place, "readOnly": True, "selinuxRelabel": True}
        for place, path in mounts.items()
    ]


def _kubelet(node: Node) -> dict[str, Any]:
    kubelet = {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        # A disk over 85 % full would silently delete the trainer image.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "serializeImagePulls": False,
    }
    return kubelet | ({"failCgroupV1": False} if node.cgroup_v1 else {})


def _containerd(node: Node) -> str:
    patch = f"[{_CRI}.registry]\nconfig_path = '{CERTS}'\n"
    if node.runtime is None:
        return patch
    return f"""[{_CRI}]
restrict_oom_score_adj = true
{patch}
[{_CRI}.containerd.runtimes.runc.options]
BinaryName = '{RUNTIME}'
"""
