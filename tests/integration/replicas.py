"""Replicas of the operator that elect a leader: real processes on a real API server."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_cluster.apiserver import ApiServer
from integration.fault_proxy import FaultProxy
from integration.operator_rig import PATIENCE, Operator, Rest, World, make_namespace, until

Json = dict[str, Any]

LEASE = "operator"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
TAKEOVER = 20.0
"""Seconds within which another replica leads, whatever has happened to the leader."""


@dataclass
class Replica(Operator):
    """An operator's process that may lead; `proxy` is between it and the API server."""

    proxy: FaultProxy | None = None

    @property
    def leads(self) -> bool:
        """Whether it says so."""
        return self.alive and "finetune_operator_leader 1.0" in self.metrics()

    def pause(self) -> None:
        """SIGSTOP"""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT"""
        self.process.send_signal(signal.SIGCONT)

    def ends(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(PATIENCE)


@dataclass(frozen=True)
class Replicas:
    """Two or more replicas over a namespace, in which their Lease is, too."""

    world: World
    server: ApiServer
    folder: Path
    stack: ExitStack

    def start(self, name: str, *, proxied: bool = False, **settings: Any) -> Replica:
        """Start one, which is ready but need not lead."""
        proxy = FaultProxy(self.server, self._folder(name)) if proxied else None
        if proxy:
            self.stack.callback(proxy.stop)
        replica = self.launch(name, proxy.kubeconfig if proxy else self.server.kubeconfig, **settings)
        replica.proxy = proxy
        replica.ready()
        return replica

    def launch(self, name: str, kubeconfig: Path, **settings: Any) -> Replica:
        """Start one without waiting."""
        namespace = self.world.namespace
        given = {"namespaces": [namespace], "lease": f"{namespace}/{LEASE}", "identity": name}
        replica = Replica(kubeconfig, self._folder(name), given | settings)
        replica.start()
        self.stack.callback(_kill, replica)
        return replica

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def leader(self, *replicas: Replica, seconds: float = TAKEOVER) -> Replica:
        """Wait until one of them leads."""

        def leading() -> Replica | None:
            return next((one for one in replicas if one.leads), None)

        return until(leading, "a replica leads", seconds, log=replicas[0])

    def lease(self) -> Json | None:
        """As it is stored."""
        return self.world.rest.get(self.world.at(LEASES, LEASE))

    def holder(self) -> str | None:
        """Who holds it; None where there is no Lease."""
        found = self.lease()
        return found and str(found["spec"].get("holderIdentity", ""))


def _kill(replica: Replica) -> None:
    if replica.alive:
        replica.resume()
        replica.kill()


@contextmanager
def replicas(server: ApiServer, rest: Rest, folder: Path, namespace: str) -> Iterator[Replicas]:
    """A namespace for them; they are ended with the block."""
    with ExitStack() as stack:
        yield Replicas(make_namespace(rest, namespace), server, folder, stack)


def seconds_until(holds: Any, what: str, most: float = TAKEOVER) -> float:
    """How long it takes."""
    began = time.monotonic()
    until(holds, what, most)
    return time.monotonic() - began
