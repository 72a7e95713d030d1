"""Tools that are not Go: found on the machine, or installed with apt-get where root and apt are there."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from finetune_cluster.commands import run
from finetune_cluster.errors import ClusterError
from finetune_cluster.progress import step

RUNC_BUILD = {"gcc": "gcc libc6-dev", "pkg-config": "pkg-config", "libseccomp": "libseccomp-dev"}
NODE = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mount": "mount",
    "iptables": "iptables",
    "conntrack": "conntrack",
}
IMAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}


def require(tools: Mapping[str, str]) -> None:
    """Make sure that every tool of `{tool: Debian packages}` is there."""
    missing = [
        package for tool, packages in tools.items() if not _found(tool) for package in packages.split()
    ]
    if not missing:
        return
    command = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError(
            f"Missing on this machine: {', '.join(missing)} (Debian's package names). "
            f"Install them, on Debian or Ubuntu with: sudo {command}"
        )
    with step(f"Installing {' '.join(missing)}"):
        run(["apt-get", "update"])
        run(command.split(), env={"DEBIAN_FRONTEND": "noninteractive"})


def _found(tool: str) -> bool:
    if tool == "libseccomp":
        return Path("/usr/include/seccomp.h").exists()
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None
