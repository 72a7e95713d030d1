"""A throw-away Kubernetes API (etcd + kube-apiserver) for tests: ready in seconds, several at once, no root.

    with ApiServer.start() as api:
        kubernetes.config.load_kube_config(str(api.kubeconfig))

There are no nodes. `controllers=True` adds kube-controller-manager: Jobs make pods (which stay Pending),
owner references are garbage-collected, ServiceAccounts get made; a pod may be bound to a node that does not exist.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_cluster import controlplane, credentials, keeper
from finetune_cluster.binaries import binary
from finetune_cluster.errors import ClusterError
from finetune_cluster.readiness import answers, last_lines, wait_until

_ADMIN = "admin"
_CONTROLLERS = "system:kube-controller-manager"
_ORPHAN_COLLECTOR = "pod-garbage-collector-controller"
"""Deletes pods that are bound to a node which does not exist, as every pod here whose kubelet a test plays."""

_ATTEMPTS = 3  # another process may take a port between our choice and the program's bind
_SECONDS = 180


@dataclass
class ApiServer:
    """A running API server: ended by leaving the `with` block, by `stop`, or with its starter."""

    folder: Path
    url: str
    kubeconfig: Path
    token: str
    ca: Path
    _keepers: list["subprocess.Popen[bytes]"]

    @classmethod
    def start(
        cls,
        *,
        controllers: bool = False,
        flags: Sequence[str] = (),
        fill: Callable[[str], None] | None = None,
    ) -> "ApiServer":
        """Start on free ports and return when it is ready. `flags` are more of kube-apiserver's.

        `fill` gets etcd's address before any controller sees what is there.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return cls._start_once(controllers, flags, fill)
            except ClusterError as error:
                if attempt == _ATTEMPTS or "address already in use" not in str(error):
                    raise
        raise AssertionError

    @classmethod
    def _start_once(
        cls, controllers: bool, flags: Sequence[str], fill: Callable[[str], None] | None
    ) -> "ApiServer":
        folder = Path(tempfile.mkdtemp(prefix="finetune-apiserver-"))
        port, etcd_port, peer_port = _free_ports(3)
        url = f"https://127.0.0.1:{port}"
        users = {_ADMIN: "system:masters", _CONTROLLERS: ""}
        made = credentials.create(folder / "pki", url, ["127.0.0.1", "10.96.0.1"], users)
        etcd = controlplane.Etcd(folder / "etcd", etcd_port, peer_port)
        api_server = [
            *controlplane.api_server(binary("kube-apiserver"), etcd, made, port),
            *controlplane.listening_on_loopback(controllers=controllers),
            *flags,
        ]
        server = cls(folder, url, made.kubeconfig(_ADMIN), made.token(_ADMIN), made.ca, [])
        try:
            server._keep({"etcd": etcd.command(binary("etcd")), "kube-apiserver": api_server}, folder)
            server._wait()
            if fill:
                fill(etcd.url)
            if controllers:  # now: the roles they need are made while the API server gets ready
                server._keep(_controllers(made), folder / "controllers")
        except BaseException:
            server.stop()
            raise
        return server

    def stop(self) -> None:
        """End all programs and delete the folder."""
        for process in reversed(self._keepers):  # the last one's folder is inside the first one's
            if process.stdin and not process.stdin.closed:
                process.stdin.close()
            process.wait(timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def logs(self) -> str:
        """The last lines of every program's log."""
        return "\n".join(f"{log.name}:\n{last_lines(log)}" for log in sorted(self.folder.rglob("*.log")))

    def __enter__(self) -> "ApiServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _keep(self, programs: dict[str, list[str]], folder: Path) -> None:
        """Start a keeper, which starts the programs with their logs in the folder."""
        folder.mkdir(exist_ok=True)
        (folder / "programs.json").write_text(json.dumps(programs))
        command = [sys.executable, "-I", keeper.__file__, str(folder)]
        # Its own session: Ctrl-C is for the starter, which then stops us in order.
        environment = os.environ | controlplane.ENVIRONMENT
        self._keepers.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env=environment)
        )

    def _wait(self) -> None:
        try:
            wait_until(
                lambda: answers(f"{self.url}/readyz", authority=self.ca, token=self.token),
                "The API server",
                seconds=_SECONDS,
                alive=lambda: self._keepers[0].poll() is None,
            )
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self.logs()}") from error


def _controllers(made: credentials.Credentials) -> dict[str, list[str]]:
    manager = binary("kube-controller-manager")
    command = controlplane.controller_manager(manager, made, made.kubeconfig(_CONTROLLERS), port=0)
    return {"kube-controller-manager": [*command, f"--controllers=*,-{_ORPHAN_COLLECTOR}"]}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
