"""kind: Kubernetes in Docker containers, for machines with Docker. Its own StorageClass `standard` serves volumes."""

import os
from pathlib import Path

from finetune_cluster import folders
from finetune_cluster.binaries import binary
from finetune_cluster.commands import run
from finetune_cluster.errors import ClusterError
from finetune_cluster.gpus import simulate_gpus, wanted_gpus
from finetune_cluster.images import kind_images
from finetune_cluster.imagespecs import chosen
from finetune_cluster.kubectl import Kubectl
from finetune_cluster.progress import step
from finetune_cluster.status import Row

NAME = "finetune"
NODE = f"{NAME}-control-plane"
CONFIG = folders.CLUSTER_SOURCES / "kind.yaml"


class KindCluster:
    """The kind cluster called `finetune`."""

    @property
    def kubeconfig(self) -> Path:
        path = self._kubeconfig_file
        if not path.exists() or NAME not in self._clusters():
            raise ClusterError("No kind cluster is running. Start it with: python -m finetune_cluster up")
        return path

    def up(self) -> None:
        self._kubeconfig_file.parent.mkdir(parents=True, exist_ok=True)
        if NAME in self._clusters():
            options = ["--name", NAME, "--kubeconfig", str(self._kubeconfig_file)]
            run([binary("kind"), "export", "kubeconfig", *options])
        else:
            self._create()
        simulate_gpus(Kubectl(self._kubeconfig_file), NODE, wanted_gpus())

    def _create(self) -> None:
        with step("Creating the kind cluster"):
            options = ["--name", NAME, "--config", str(CONFIG), "--kubeconfig", str(self._kubeconfig_file)]
            run([binary("kind"), "create", "cluster", *options, "--wait", "180s"])

    def down(self) -> None:
        if NAME in self._clusters():
            with step("Deleting the kind cluster"):
                run([binary("kind"), "delete", "cluster", "--name", NAME])
        self._kubeconfig_file.unlink(missing_ok=True)

    def describe(self) -> str:
        return f"the kind cluster {NAME} ({os.environ.get('DOCKER_HOST', 'local Docker')})"

    def status(self) -> list[Row]:
        nodes = Kubectl(self.kubeconfig).get("nodes")["items"]
        return [Row(node["metadata"]["name"], "container", _ready(node["status"])) for node in nodes]

    def images(self, *keys: str) -> dict[str, str]:
        return kind_images(chosen(keys), NAME)

    def volumes(self, count: int) -> int:
        """None: kind makes volumes for the class `standard` as they are claimed."""
        return 0

    def host_path(self, namespace: str, claim: str) -> Path:
        raise ClusterError(f"{namespace}/{claim} is inside a kind node; use kubectl cp to see its files")

    @property
    def _kubeconfig_file(self) -> Path:
        return folders.state() / "kind.kubeconfig"

    def _clusters(self) -> list[str]:
        return run([binary("kind"), "get", "clusters"]).split()


def _ready(status: dict[str, list[dict[str, str]]]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in status["conditions"])
