"""A namespace with an operator behind a scripted proxy, a kubelet that is played, and an observer that checks."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.kubelet import Kubelet
from faults.observer import Observer
from faults.script import ScriptedProxy
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import (
    CHILDREN,
    CONFIG_MAPS,
    JOBS,
    PATIENCE,
    Operator,
    Rest,
    World,
    make_namespace,
    until,
)

Json = dict[str, Any]

QUIET = 3.0
"""Seconds in which a system at rest must not write."""
_CLUSTER_WIDE = re.compile(
    r"/(api|apis|version|openapi.*)(/[^/]+){0,2}/?(\?.*)?|/apis/authentication.k8s.io/v1/tokenreviews"
)
"""Discovery, and the one request about no namespace."""


@dataclass
class Rig:
    """The parts."""

    world: World
    proxy: ScriptedProxy
    operator: Operator
    observer: Observer
    kubelet: Kubelet

    def kill(self) -> None:
        """SIGKILL, and a new process."""
        self.operator.kill()
        self.operator.start()

    def succeeds(self, *names: str, seconds: float = PATIENCE) -> None:
        """Wait for their end; each has to succeed."""
        deadline = time.monotonic() + seconds
        for name in names:
            self.world.until_phase(name, "Succeeded", max(1.0, deadline - time.monotonic()))

    def rests(self) -> None:
        """I5: once all is done, nothing is written any more, by nobody, and not after a restart either."""
        self.settles()
        self.operator.ready()
        before = self.observer.versions()
        writes = self.operator.writes()
        time.sleep(QUIET)
        assert self.operator.writes() == writes, f"I5: {self.operator.log()}"
        assert self.observer.versions() == before, "I5"

    def settles(self) -> None:
        """Wait until nothing has been written for a second."""

        def still() -> bool:
            before = self.observer.versions()
            time.sleep(1)
            return self.observer.versions() == before

        until(still, "nothing changes any more", log=self.operator)

    def stays_inside(self) -> None:
        """I6: every request is about this namespace, or is discovery."""
        inside = f"/namespaces/{self.world.namespace}/"
        strange = [
            line
            for line in list(self.proxy.requests)
            if inside not in line
            and f"/namespaces/{self.world.namespace}"
            != line.partition(" ")[2].rstrip("/")[-len(inside) + 1 :]
            and not _CLUSTER_WIDE.fullmatch(line.partition(" ")[2])
        ]
        assert not strange, f"I6: {strange[:5]}"

    def is_empty(self) -> None:
        """I4: nothing is left of jobs that were deleted, but what they have written."""
        rest, at = self.world.rest, self.world.at
        until(
            lambda: (
                not [
                    body["metadata"]["name"]
                    for path in (JOBS, CHILDREN, CONFIG_MAPS)
                    for body in rest.items(at(path), "" if path == JOBS else "finetune.dev/job-uid")
                ]
            ),
            "nothing is left",
            log=self.operator,
        )


@contextmanager
def rig(server: ApiServer, folder: Path, namespace: str, **settings: Any) -> Iterator[Rig]:
    """At the end nothing was violated, the operator lives, and what it logged is no traceback."""
    world = make_namespace(Rest(server), namespace)
    proxy, observer, kubelet = ScriptedProxy(server, folder), Observer(server, namespace), Kubelet(world)
    given = {"namespaces": [namespace], "retry_backoff": 0.2, "resync_interval": 3.0} | settings
    operator = Operator(proxy.kubeconfig, folder, given).start()
    try:
        operator.ready()
        found = Rig(world, proxy, operator, observer, kubelet)
        yield found
        observer.check()
        assert operator.alive, operator.log()
        assert "Traceback" not in operator.log(characters=10**7), operator.log(characters=10**5)
        found.stays_inside()
    finally:
        kubelet.stop()
        if operator.alive:
            operator.kill()
        observer.stop()
        proxy.stop()


class Restarts:
    """Starts an operator again whenever it has ended, as its Deployment would."""

    def __init__(self, operator: Operator) -> None:
        self.count = 0
        self._operator, self._stopped = operator, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Restarts":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._stopped.wait(0.05):
            if not self._operator.alive:
                self._operator.start()
                self.count += 1  # after it: whoever waits for it finds the new process
