"""The image registry beside the kind cluster: its node pulls from it by name, the host pushes to a loopback port."""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from finetune_cluster import folders
from finetune_cluster.archives import Image, layer
from finetune_cluster.binaries import binary, family_of
from finetune_cluster.kind import docker
from finetune_cluster.progress import step

NAME = "finetune-registry"
_PORT = 5000
_DATA = "/data"
_SETTINGS = {
    "version": "0.1",
    "log": {"level": "warn", "accesslog": {"disabled": True}},
    "storage": {"filesystem": {"rootdirectory": _DATA}, "delete": {"enabled": True}},
    "http": {"addr": f":{_PORT}"},
}


@dataclass(frozen=True)
class Owner:
    """How things in Docker are marked as ours: a label with the state folder as its value."""

    state: Path

    @property
    def label(self) -> str:
        return f"dev.finetune.cluster={self.state}"

    def owns(self, labels: dict[str, str] | None) -> bool:
        key, _, value = self.label.partition("=")
        return (labels or {}).get(key) == value


def start(owner: Owner, network: str, *, rootless: bool) -> str:
    """Start the registry on a free port; returns its address on this machine."""
    address = f"127.0.0.1:{_free_port()}"
    data = folders.cache() / "registry"
    data.mkdir(parents=True, exist_ok=True)
    user = [] if rootless else ["--user", f"{os.getuid()}:{os.getgid()}"]
    # its data are a folder of the cache, so that the next cluster needs no new push
    places = [f"--volume={data}:{_DATA}:z", f"--publish={address}:{_PORT}", f"--network={network}"]
    marks = [f"--name={NAME}", f"--label={owner.label}", "--restart=unless-stopped"]
    with step(f"Starting the registry {address}"):
        docker.docker("run", "--detach", *marks, *user, *places, _image())
    return address


def address() -> str:
    """The address of the running registry on this machine; "" if there is none."""
    for container in docker.inspect("container", NAME):
        for binding in container["HostConfig"]["PortBindings"].get(f"{_PORT}/tcp") or ():
            return f"{binding['HostIp']}:{binding['HostPort']}"
    return ""


def hosts_file() -> str:
    """What containerd reads to pull from the registry by its name in Docker's network."""
    return f'[host."http://{NAME}:{_PORT}"]\ncapabilities = ["pull", "resolve"]\n'


def _image() -> str:
    """The registry's image: our own program and its configuration."""
    name = f"{NAME}:{family_of('registry').key}"
    if not docker.has_image(name):
        files: dict[str, Path | bytes] = {
            "registry": binary("registry"),
            "registry.json": json.dumps(_SETTINGS).encode(),
        }
        start = ("/registry", "serve", "/registry.json")
        docker.load(Image(name, layer(files), start, environment=("OTEL_TRACES_EXPORTER=none",)))
    return name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
