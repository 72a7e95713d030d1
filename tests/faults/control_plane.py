"""etcd, API server and controllers, each of which can be killed and started again, and etcd's data put back."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_cluster import controlplane, credentials, keeper
from finetune_cluster.apiserver import ApiServer
from finetune_cluster.binaries import binary
from finetune_cluster.readiness import answers, wait_until
from integration.operator_rig import Rest, install_crd
from ports import free_port

ETCD, API_SERVER, CONTROLLERS = "etcd", "kube-apiserver", "kube-controller-manager"
_ADMIN, _MANAGER = "admin", "system:kube-controller-manager"
_SECONDS = 60


class ControlPlane:
    """Programs by name. Each has a separate keeper, so that none outlives the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        port = free_port()
        url = f"https://127.0.0.1:{port}"
        made = credentials.create(
            folder / "pki", url, ["127.0.0.1", "10.96.0.1"], {_ADMIN: "system:masters", _MANAGER: ""}
        )
        self._etcd = controlplane.Etcd(folder / "etcd", free_port(), free_port())
        manager = controlplane.controller_manager(
            binary(CONTROLLERS), made, made.kubeconfig(_MANAGER), port=0
        )
        self._commands = {
            ETCD: self._etcd.command(binary(ETCD)),
            API_SERVER: [
                *controlplane.api_server(binary(API_SERVER), self._etcd, made, port),
                *controlplane.listening_on_loopback(controllers=True),
            ],
            CONTROLLERS: [*manager, "--controllers=*,-pod-garbage-collector-controller"],
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.server = ApiServer(folder, url, made.kubeconfig(_ADMIN), made.token(_ADMIN), made.ca, [])

    def start(self, *names: str) -> None:
        """Start programs; an API server is waited for."""
        for name in names:
            place = self._folder / f"keeper-{name}"
            place.mkdir()
            (place / "programs.json").write_text(json.dumps({name: self._commands[name]}))
            command = [sys.executable, "-I", keeper.__file__, str(place)]
            self._running[name] = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
            if name == API_SERVER:
                self._wait()

    def kill(self, *names: str) -> None:
        """SIGKILL"""
        for name in names:
            process = self._running.pop(name)
            assert process.stdin
            process.stdin.close()
            process.wait(timeout=_SECONDS)

    def back_up(self) -> None:
        """Keep etcd's data as it is; etcd has to be down."""
        shutil.rmtree(self._folder / "backup", ignore_errors=True)
        shutil.copytree(self._etcd.data, self._folder / "backup")

    def restore(self) -> None:
        """Put it back; etcd has to be down."""
        shutil.rmtree(self._etcd.data)
        shutil.copytree(self._folder / "backup", self._etcd.data)

    def stop(self) -> None:
        """End everything."""
        self.kill(*reversed(self._running))

    def _wait(self) -> None:
        wait_until(
            lambda: answers(f"{self.server.url}/readyz", authority=self.server.ca, token=self.server.token),
            "The API server",
            seconds=_SECONDS,
            alive=lambda: self._running[API_SERVER].poll() is None,
        )


@contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """A running one, with the CRD."""
    plane = ControlPlane(folder)
    try:
        plane.start(ETCD, API_SERVER, CONTROLLERS)
        install_crd(Rest(plane.server))
        yield plane
    finally:
        plane.stop()
