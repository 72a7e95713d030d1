"""Prometheus and promtool: those of the machine, or of Debian's package, unpacked into the cache.

Unpacked, not installed: the package would start a service.
"""

import os
import shutil
import tempfile
from pathlib import Path

from finetune_cluster import folders
from finetune_cluster.commands import run, succeeds
from finetune_cluster.errors import ClusterError
from finetune_cluster.progress import step


def prometheus_program(name: str) -> Path:
    """The path of `prometheus` or `promtool`. Raises ClusterError where neither is available."""
    if found := shutil.which(name):
        return Path(found)
    unpacked = folders.cache() / "prometheus"
    program = unpacked / "usr" / "bin" / name
    if not program.exists():
        _unpack(unpacked)
    return program


def _unpack(target: Path) -> None:
    if shutil.which("apt-get") is None:
        raise ClusterError(
            "Prometheus is missing on this machine: install prometheus and promtool, 2.42 or newer"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with step("Downloading Prometheus"), tempfile.TemporaryDirectory(dir=target.parent) as half:
        download = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "prometheus"]
        folder = Path(half)
        if not succeeds(["apt-cache", "show", "prometheus"]) and os.geteuid() == 0:
            run(["apt-get", "update"])
        run(download, folder=folder)
        (package,) = folder.glob("*.deb")
        run(["dpkg-deb", "--extract", package, folder / "files"])
        (folder / "files").rename(target)
