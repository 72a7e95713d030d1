"""An existing cluster, used through the current kubeconfig, never created, never deleted."""

import os
from collections.abc import Sequence
from pathlib import Path

from finetune_cluster.errors import ClusterError
from finetune_cluster.images import pushed_images
from finetune_cluster.imagespecs import chosen
from finetune_cluster.kubectl import Kubectl
from finetune_cluster.progress import say
from finetune_cluster.status import Row


class ExistingCluster:
    """The cluster of the current context."""

    @property
    def kubeconfig(self) -> Path:
        """The file that kubectl would read; of several in KUBECONFIG the first that exists."""
        names = os.environ.get("KUBECONFIG", "").split(os.pathsep)
        for path in (*[Path(name) for name in names if name], Path.home() / ".kube" / "config"):
            if path.exists():
                return path
        raise ClusterError(
            "CLUSTER=existing, but there is no kubeconfig. Set KUBECONFIG, or use CLUSTER=embedded"
        )

    def up(self, images: Sequence[str] = ()) -> None:
        say(f"Using {self.describe()}")
        Kubectl(self.kubeconfig).run("version", "--request-timeout=10s")

    def down(self) -> None:
        say(f"{self.describe()} is not ours: nothing is stopped")

    def describe(self) -> str:
        context = Kubectl(self.kubeconfig).run("config", "current-context").strip()
        return f"the existing cluster of context {context} ({self.kubeconfig})"

    def status(self) -> list[Row]:
        ready = Kubectl(self.kubeconfig).run("get", "--raw=/readyz").strip()
        return [Row("kube-apiserver", "", ready == "ok")]

    def images(self, *keys: str) -> dict[str, str]:
        return pushed_images(chosen(keys))

    def volumes(self, count: int) -> int:
        """None: an existing cluster has its own StorageClass."""
        return 0

    def host_path(self, namespace: str, claim: str) -> Path:
        raise ClusterError(f"{namespace}/{claim} is not on this machine; use kubectl cp to see its files")
