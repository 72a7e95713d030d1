"""Selects the cluster: CLUSTER=auto|embedded|kind|existing."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finetune_cluster import record
from finetune_cluster.errors import ClusterError
from finetune_cluster.existing import ExistingCluster
from finetune_cluster.kind import docker, nodeimage
from finetune_cluster.kind.cluster import KindCluster
from finetune_cluster.node import NodeCluster
from finetune_cluster.progress import say
from finetune_cluster.status import Row

KINDS = ("embedded", "kind", "existing")


class Cluster(Protocol):
    """What the command line and the tests do with any cluster."""

    @property
    def kubeconfig(self) -> Path:
        """Its kubeconfig; an error with a remedy if it is not running."""

    def up(self, images: Sequence[str] = ()) -> None:
        """Make sure that it runs. A cluster that is compiled first builds these images of ours meanwhile."""

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


_MAKERS: dict[str, Callable[[], Cluster]] = {
    "embedded": NodeCluster,
    "kind": KindCluster,
    "existing": ExistingCluster,
}


@dataclass(frozen=True)
class Choice:
    """One of KINDS, and a sentence where it is not the first that CLUSTER=auto tries."""

    kind: str
    why: str = ""


def chosen_cluster() -> Cluster:
    """The cluster that CLUSTER selects; if unset, the one that is running or fits this machine."""
    choice = choose(
        _wanted(),
        started=record.recall(),
        engine=lambda: docker.engine().problem,
        image=nodeimage.problem,
        root=os.geteuid() == 0,
    )
    if choice.why:
        say(choice.why)
    return _MAKERS[choice.kind]()


def started_cluster() -> Cluster | None:
    """The cluster that CLUSTER selects, or that CLUSTER=auto has started and that was not stopped."""
    kind = choose(_wanted(), started="", engine=str, image=str, root=False).kind
    if _wanted() == "auto":
        kind = record.recall()
    return _MAKERS[kind]() if kind else None


def _wanted() -> str:
    return os.environ.get("CLUSTER", "auto")


def choose(
    wanted: str, *, started: str, engine: Callable[[], str], image: Callable[[], str], root: bool
) -> Choice:
    """Pure: `engine` and `image` say why Docker or its node image cannot be used, "" if they can.

    kind comes first: nobody with Docker should get a kubelet and iptables rules as root.
    """
    if wanted in KINDS:
        return Choice(wanted)
    if wanted != "auto":
        raise ClusterError(f"CLUSTER must be auto, {', '.join(KINDS[:-1])} or {KINDS[-1]}, not {wanted!r}")
    if started == "embedded" and root:
        return Choice(started)
    problem = engine() or ("" if started == "kind" else image())
    if not problem:
        return Choice("kind")
    if root:
        return Choice("embedded", f"{problem} The embedded cluster is used instead of kind.")
    raise ClusterError(
        f"No cluster can be started here. {problem} Or run this as root, which starts the embedded cluster "
        "without Docker, or use the cluster of your kubeconfig with CLUSTER=existing."
    )
