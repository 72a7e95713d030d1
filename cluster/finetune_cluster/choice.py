"""Selects the cluster: CLUSTER=auto|embedded|kind|existing."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from finetune_cluster.commands import succeeds
from finetune_cluster.errors import ClusterError
from finetune_cluster.existing import ExistingCluster
from finetune_cluster.kind import KindCluster
from finetune_cluster.node import NodeCluster
from finetune_cluster.status import Row

KINDS = ("embedded", "kind", "existing")


class Cluster(Protocol):
    """What the command line and the tests do with any cluster."""

    @property
    def kubeconfig(self) -> Path:
        """Its kubeconfig; an error with a remedy if it is not running."""

    def up(self) -> None:
        """Make sure that it runs."""

    def down(self) -> None:
        """Make sure that it is stopped, if it is ours."""

    def describe(self) -> str:
        """One line: what it is and where."""

    def status(self) -> list[Row]:
        """Its components."""

    def images(self, *keys: str) -> dict[str, str]:
        """Make our images with these keys available, or all of them, and return their references."""

    def volumes(self, count: int) -> int:
        """Make sure that `count` volumes are available; returns how many are new."""

    def host_path(self, namespace: str, claim: str) -> Path:
        """The host's folder behind a bound claim."""


def chosen_cluster() -> Cluster:
    """The cluster that CLUSTER selects; if unset, the one that fits this machine."""
    wanted = os.environ.get("CLUSTER", "auto")
    kind = choose(wanted, docker=lambda: succeeds(["docker", "info"]), root=os.geteuid() == 0)
    makers: dict[str, Callable[[], Cluster]] = {
        "embedded": NodeCluster,
        "kind": KindCluster,
        "existing": ExistingCluster,
    }
    return makers[kind]()


def choose(wanted: str, *, docker: Callable[[], bool], root: bool) -> str:
    """One of KINDS; nobody with Docker should get a kubelet and iptables rules as root."""
    if wanted in KINDS:
        return wanted
    if wanted != "auto":
        raise ClusterError(f"CLUSTER must be auto, {', '.join(KINDS[:-1])} or {KINDS[-1]}, not {wanted!r}")
    if docker():
        return "kind"
    if root:
        return "embedded"
    raise ClusterError(
        "No cluster can be started here: Docker does not answer (`docker info`), and without it the embedded "
        "cluster needs root. Start Docker, or run this as root with CLUSTER=embedded, "
        "or use an existing cluster with CLUSTER=existing."
    )
