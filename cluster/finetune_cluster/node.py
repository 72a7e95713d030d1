"""The embedded cluster with a real node: kubelet, containerd, scheduler and the rest as background processes.

`up` starts what is not running, `down` ends everything and leaves nothing but caches and logs. The processes
outlive the command that started them. cluster/README.md draws how it hangs together.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from finetune_cluster import (
    components,
    credentials,
    debian,
    firstbuild,
    folders,
    lock,
    nodeconfig,
    record,
    sysctls,
)
from finetune_cluster.archives import Image, layer, write_archive
from finetune_cluster.binaries import binary
from finetune_cluster.buildah import Buildah
from finetune_cluster.components import ADMIN, API_URL, Component
from finetune_cluster.controlplane import SERVICE_OF_API_SERVER, SERVICE_RANGE
from finetune_cluster.credentials import Credentials
from finetune_cluster.errors import ClusterError
from finetune_cluster.gpus import simulate_gpus, simulated_gpus, wanted_gpus
from finetune_cluster.images import registry_images
from finetune_cluster.imagespecs import chosen
from finetune_cluster.kubectl import Kubectl
from finetune_cluster.progress import step
from finetune_cluster.readiness import healthy, last_lines, wait_until
from finetune_cluster.sandbox import NODE_ADDRESS, Sandbox
from finetune_cluster.status import Row
from finetune_cluster.teardown import end_processes, remove_containers, remove_state
from finetune_cluster.volumes import VolumePool

VOLUMES = 32
_SECONDS = 180


class NodeCluster:
    """The one node cluster of this machine, with its state in one folder. Needs root."""

    def __init__(self) -> None:
        self.state = folders.state()
        self.logs = self.state / "logs"
        self._sandbox = Sandbox(self.state, SERVICE_RANGE)
        self._credentials = Credentials(self.state / "pki")
        self._prepared = self.state / "run" / "prepared"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, usable from the host."""
        path = self._credentials.kubeconfig(ADMIN)
        if not path.exists() or not self._sandbox.whole():
            raise ClusterError("No node cluster is running. Start it with: python -m finetune_cluster up")
        return path

    def up(self, images: Sequence[str] = ()) -> None:
        """Start whatever is not running and return when the node is ready. Quick when all is well."""
        _require_root()
        with lock.exclusive("up") as claim:
            self._refuse_others(claim)
            record.remember("embedded")
            if self._healthy():
                simulate_gpus(self._kubectl, nodeconfig.NODE_NAME, wanted_gpus())
                return
            debian.require(debian.NODE)
            firstbuild.build(components.programs(), chosen(images) if images else (), self._builder)
            claim.take(self.state)
            if not (self._prepared.exists() and self._sandbox.whole()):
                self._clear()
                self._prepare()
            self._start_components()

    def down(self) -> None:
        """End every process and remove every trace but caches and logs, whatever state things are in."""
        _require_root()
        with lock.exclusive("down") as claim:
            self._refuse_others(claim)
            if self._sandbox.traces() or (self.state / "run").exists():
                with step("Stopping the node cluster"):
                    self._clear()
            claim.release()
        record.forget()

    def describe(self) -> str:
        return f"the embedded cluster (API {API_URL}, logs in {self.logs})"

    def status(self) -> list[Row]:
        """Every program with its pid and whether it answers, and the node."""
        kubectl = self._kubectl
        gpus = f"{simulated_gpus(kubectl, nodeconfig.NODE_NAME)} GPUs, simulated"
        return [*self._programs(), Row(nodeconfig.NODE_NAME, "node", self._node_ready(), gpus)]

    def volumes(self, count: int) -> int:
        """Recycle released volumes and make sure that `count` are available; returns how many are new."""
        return VolumePool(self._kubectl, self.state / "volumes").ensure(count)

    def host_path(self, namespace: str, claim: str) -> Path:
        """The host's folder behind a bound PersistentVolumeClaim."""
        return VolumePool(self._kubectl, self.state / "volumes").host_path(namespace, claim)

    def images(self, *keys: str) -> dict[str, str]:
        """Build the images with these keys, or all, where they changed; returns their references."""
        assert self.kubeconfig
        port = nodeconfig.REGISTRY_PORT
        references = registry_images(
            chosen(keys), lambda: self._builder, f"{NODE_ADDRESS}:{port}", seen_as=f"127.0.0.1:{port}"
        )
        ctr = [str(binary("ctr")), "--namespace=k8s.io", "images"]
        present = self._sandbox.run([*ctr, "list", "--quiet"]).split()
        for reference in set(references.values()) - set(present):
            with step(f"Pulling {reference}"):  # here, where it is seen, and not while a job starts
                self._sandbox.run([*ctr, "pull", "--plain-http", "--local", reference])
        return references

    def pid_of(self, program: str) -> int | None:
        """The process of a program of the node, such as the kubelet."""
        return self._sandbox.pid_of(program)

    def import_image(self, archive: Path) -> None:
        """Give containerd an image archive directly."""
        self._sandbox.run(
            [str(binary("ctr")), "--namespace=k8s.io", "images", "import", "--local", str(archive)]
        )

    @property
    def _builder(self) -> Buildah:
        return Buildah(self.logs / "images.log")

    @property
    def _kubectl(self) -> Kubectl:
        return Kubectl(self.kubeconfig)

    def _refuse_others(self, claim: lock.Claim) -> None:
        if (
            self._sandbox.traces()
        ):  # a claim without a cluster is left over, from before a restart of the machine
            claim.refuse_others(self.state)

    def _healthy(self) -> bool:
        prepared = self._prepared.exists() and self._sandbox.whole()
        return prepared and all(row.healthy for row in self._programs()) and self._node_ready()

    def _programs(self) -> list[Row]:
        rows = []
        for component in self._components():
            pid = self._pid(component)
            rows.append(Row(component.name, str(pid or ""), pid is not None and self._answers(component)))
        return rows

    def _prepare(self) -> None:
        """Create the sandbox, secrets and configuration; a marker file records that all of it exists."""
        shutil.rmtree(self.logs, ignore_errors=True)
        (self.state / "run").mkdir(parents=True, exist_ok=True)
        sysctls.save(self.state / "run" / "sysctls.json")
        self._sandbox.create()
        addresses = [NODE_ADDRESS, "127.0.0.1", SERVICE_OF_API_SERVER]
        credentials.create(self._credentials.folder, API_URL, addresses, components.USERS)
        for path, text in nodeconfig.files(self._paths()).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self._prepared.touch()

    def _start_components(self) -> None:
        """Start and wait; the clients of the API only when it is ready, with the roles that they need."""
        started = [component for component in self._components() if self._pid(component) is None]
        names = ", ".join(component.name for component in started) or "nothing new"
        with step(f"Starting the node cluster ({names})"):
            for group in (components.independent, components.clients_of_api):
                self._start_group(group(self._paths(), self._credentials))
            self._import_pause_image()
            wait_until(self._node_ready, f"The node (logs in {self.logs})", seconds=_SECONDS)
        simulate_gpus(self._kubectl, nodeconfig.NODE_NAME, wanted_gpus())
        self.volumes(VOLUMES)

    def _start_group(self, group: list[Component]) -> None:
        for component in group:
            if self._pid(component) is None:
                self._sandbox.start(component.name, component.command, component.env)
        for component in group:
            self._wait_for(component)

    def _import_pause_image(self) -> None:
        archive = self.state / "run" / "pause.tar"
        pause = Image(nodeconfig.PAUSE_IMAGE, layer({"pause": binary("pause")}), ("/pause",), "65535:65535")
        write_archive(pause, archive)
        self.import_image(archive)

    def _wait_for(self, component: Component) -> None:
        try:
            wait_until(
                lambda: self._answers(component),
                component.name,
                seconds=_SECONDS,
                alive=lambda: self._pid(component) is not None,
            )
        except ClusterError as error:
            log = self.logs / f"{component.name}.log"
            raise ClusterError(f"{error}. The end of {log}:\n{last_lines(log)}") from error

    def _answers(self, component: Component) -> bool:
        return healthy(component.health, authority=self._credentials.ca, token=self._credentials.token(ADMIN))

    def _node_ready(self) -> bool:
        try:
            node = self._kubectl.get("node", nodeconfig.NODE_NAME)
        except ClusterError:
            return False
        conditions = node["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _components(self) -> list[Component]:
        paths = self._paths()
        return [
            *components.independent(paths, self._credentials),
            *components.clients_of_api(paths, self._credentials),
        ]

    def _paths(self) -> nodeconfig.NodePaths:
        return components.node_paths(self.state, folders.cache(), self._credentials)

    def _pid(self, component: Component) -> int | None:
        return self._sandbox.pid_of(component.name)

    def _clear(self) -> None:
        remove_containers(self._sandbox)
        end_processes(self._sandbox)
        self._sandbox.remove()
        sysctls.restore(self.state / "run" / "sysctls.json")
        remove_state(self.state)


def _require_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError(
            "The embedded node cluster needs root (namespaces, cgroups, mounts). "
            "Run it as root, or use CLUSTER=kind with Docker, or CLUSTER=existing with your own cluster."
        )
