"""The kind cluster: its node, the registry beside it and their network. Its StorageClass `standard` serves volumes."""

import contextlib
import functools
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune_cluster import folders, record
from finetune_cluster.binaries import binary
from finetune_cluster.buildah import BASE_IMAGE, Buildah
from finetune_cluster.commands import run
from finetune_cluster.errors import ClusterError
from finetune_cluster.gpus import simulate_gpus, wanted_gpus
from finetune_cluster.images import DockerBuilder, registry_images
from finetune_cluster.imagespecs import chosen
from finetune_cluster.kind import config, docker, nodeimage, registry
from finetune_cluster.kind.engine import Engine
from finetune_cluster.kubectl import Kubectl
from finetune_cluster.progress import step
from finetune_cluster.readiness import wait_until
from finetune_cluster.status import Row

NAME = "finetune"
NODE = f"{NAME}-control-plane"
NETWORK = NAME
_RUNTIME = folders.CLUSTER_SOURCES / "kind" / "runc-without-sys-resource"
_THINGS = (("container", NODE), ("container", registry.NAME), ("network", NETWORK))
_SECONDS = 90
_SECONDS_OF_CLIENT = 1
"""A docker client that was ended with us may still be starting a container."""


class KindCluster:
    """The kind cluster called `finetune`, with its state in one folder."""

    def __init__(self) -> None:
        self.state = folders.state().with_name("kind")
        self._owner = registry.Owner(self.state)
        self._certs = self.state / "certs.d"
        self._whole = self.state / "whole"  # exists when nothing of a start is missing

    @property
    def kubeconfig(self) -> Path:
        if not (self._whole.exists() and NODE in self._things()):
            raise ClusterError("No kind cluster is running. Start it with: python -m finetune_cluster up")
        return self._kubeconfig

    def up(self, images: Sequence[str] = ()) -> None:
        """Start what is not running. An interrupted start leaves nothing."""
        engine = _usable_engine()
        self._refuse_others()
        record.remember("kind")
        if self._whole.exists() and len(self._things()) == len(_THINGS):
            docker.docker("start", registry.NAME, NODE)  # after a restart of Docker they may be stopped
        else:
            with _undone_if_interrupted(self.down):
                self._remove()
                self._create(engine)
        kubectl = Kubectl(self._kubeconfig)
        wait_until(lambda: _is_ready(kubectl), "The kind cluster", seconds=_SECONDS)
        simulate_gpus(kubectl, NODE, wanted_gpus())

    def down(self) -> None:
        """Remove everything of ours from Docker, and the kubeconfig; also what an interrupted start left."""
        _usable_engine()
        if self._things():
            with step("Deleting the kind cluster"):
                self._remove()
        record.forget()

    def describe(self) -> str:
        return f"the kind cluster {NAME} ({os.environ.get('DOCKER_HOST', 'local Docker')})"

    def status(self) -> list[Row]:
        nodes = Kubectl(self.kubeconfig).get("nodes")["items"]
        return [Row(node["metadata"]["name"], "container", _node_is_ready(node)) for node in nodes]

    def images(self, *keys: str) -> dict[str, str]:
        """Build the images with these keys, or all, where they changed; returns their references."""
        assert self.kubeconfig
        address = registry.address()
        references = registry_images(chosen(keys), functools.cache(self._builder), address, seen_as=address)
        ctr = ("exec", NODE, "ctr", "--namespace=k8s.io", "images")
        present = docker.docker(*ctr, "list", "--quiet").split()
        for reference in sorted(set(references.values()) - set(present)):
            with step(f"Pulling {reference}"):  # here, where it is seen, and not while a job starts
                docker.docker(*ctr, "pull", "--local", f"--hosts-dir={config.CERTS}", reference)
        return references

    def volumes(self, count: int) -> int:
        """None: kind makes volumes for the class `standard` as they are claimed."""
        return 0

    def host_path(self, namespace: str, claim: str) -> Path:
        raise ClusterError(f"{namespace}/{claim} is inside a kind node; use kubectl cp to see its files")

    @property
    def _kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    def _builder(self) -> DockerBuilder | Buildah:
        """Docker, where it has or gets the base of our images; else buildah, which makes the base itself."""
        problem = docker.image_problem(BASE_IMAGE)
        if not problem:
            return DockerBuilder()
        if os.geteuid() == 0:
            return Buildah(self.state / "images.log")
        raise ClusterError(
            f"{problem} Our images are built on it: pull it, or load it with `docker load`, "
            "or run this as root, which builds it with debootstrap."
        )

    def _create(self, engine: Engine) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        image = nodeimage.wanted()
        docker.docker("network", "create", f"--label={self._owner.label}", *_mtu(), NETWORK)
        address = registry.start(self._owner, NETWORK, rootless=engine.rootless)
        hosts = self._certs / address / "hosts.toml"
        hosts.parent.mkdir(parents=True)
        hosts.write_text(registry.hosts_file())
        runtime = None if config.may_raise_limits(_own_status()) else _RUNTIME
        settings = self.state / "kind.json"
        settings.write_text(config.cluster(config.Node(image, self._certs, engine.cgroup_v1, runtime)))
        with step(f"Creating the kind cluster from {image}"):
            options = [f"--name={NAME}", f"--config={settings}", f"--kubeconfig={self._kubeconfig}"]
            network = {"KIND_EXPERIMENTAL_DOCKER_NETWORK": NETWORK}
            run([binary("kind"), "create", "cluster", *options, "--wait=180s"], env=network)
        self._whole.touch()

    def _remove(self) -> None:
        """Nothing that another program or another state folder made is touched."""
        things = self._things()
        self._whole.unlink(missing_ok=True)
        if NODE in things:
            docker.docker("rm", "--force", "--volumes", NODE)
        if registry.NAME in things:
            docker.docker("rm", "--force", "--volumes", registry.NAME)
        if NETWORK in things:
            docker.docker("network", "rm", NETWORK)
        shutil.rmtree(self.state, ignore_errors=True)

    def _things(self, *, ours: bool = True) -> set[str]:
        """The names of node, registry and network that are in Docker and ours, or that are not ours."""
        return {
            name
            for kind, name in _THINGS
            for found in docker.inspect(kind, name)
            if self._is_ours(found) is ours
        }

    def _is_ours(self, found: dict[str, Any]) -> bool:
        labels = found.get("Labels") or found.get("Config", {}).get("Labels")
        return self._owner.owns(labels) or config.owner_of(found) == self._certs

    def _refuse_others(self) -> None:
        if others := sorted(self._things(ours=False)):
            raise ClusterError(
                f"Docker has {' and '.join(others)} already, and {self.state} did not make them. They are left as "
                f"they are. Use CLUSTER=existing, or delete them: kind delete cluster --name {NAME}; "
                f"docker rm --force {registry.NAME}; docker network rm {NETWORK}"
            )


def _usable_engine() -> Engine:
    engine = docker.engine()
    if engine.problem:
        raise ClusterError(engine.problem)
    return engine


def _own_status() -> str:
    file = Path("/proc/self/status")
    return file.read_text() if file.exists() else ""


def _mtu() -> list[str]:
    """The MTU of Docker's default network, which fits the machine, for ours."""
    name = "com.docker.network.driver.mtu"
    found = [network["Options"].get(name) for network in docker.inspect("network", "bridge")]
    return [f"--opt={name}={mtu}" for mtu in found if mtu]


@contextlib.contextmanager
def _undone_if_interrupted(undo: Callable[[], None]) -> Iterator[None]:
    """Run `undo` when the block fails or is ended, by Ctrl-C or SIGTERM."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except BaseException:
        time.sleep(_SECONDS_OF_CLIENT)
        undo()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_ready(kubectl: Kubectl) -> bool:
    try:
        return all(_node_is_ready(node) for node in kubectl.get("nodes")["items"])
    except ClusterError:
        return False


def _node_is_ready(node: dict[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"]["conditions"])
