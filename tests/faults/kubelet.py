"""Plays the scheduler and the kubelets of a namespace: every pod starts, and ends as its script says."""

import threading
import time
from collections.abc import Callable
from typing import Any

from urllib3.exceptions import HTTPError

from finetune_api.run import RunReport
from finetune_api.status import CheckpointStatus, PreflightFindings
from integration.operator_rig import DONE, MODEL, PODS, Refused, World

Json = dict[str, Any]
Script = Callable[[Json], int | None]
"""The exit code of a pod that runs; None for not yet."""

_PAUSE = 0.1
_PREFLIGHT = "finetune.dev/preflight"
_PASSED = RunReport(exit_code=0, preflight=PreflightFindings(train_rows=180, labels=2))
_ASKED_TO_STOP = 75


def succeed(_: Json) -> int | None:
    """Every pod ends with 0 as soon as it runs."""
    return 0


class Kubelet:
    """A thread. `script` may be replaced at any time; a pod that is deleted ends with 75 when it runs, and goes."""

    def __init__(self, world: World, script: Script = succeed, grace: float = 0.0) -> None:
        self.script, self.grace = script, grace
        self._world, self._stopped = world, threading.Event()
        self._dying: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopped.wait(_PAUSE):
            try:
                pods = self._world.rest.items(self._world.at(PODS))
            except (Refused, HTTPError, OSError):
                continue
            for pod in pods:
                try:
                    self._step(pod)
                except (Refused, HTTPError, OSError):
                    continue

    def _step(self, pod: Json) -> None:
        name, phase = pod["metadata"]["name"], pod["status"].get("phase")
        if "deletionTimestamp" in pod["metadata"]:
            self._stop(pod, name, phase)
        elif "nodeName" not in pod["spec"]:
            self._world.bind(name)
        elif phase == "Pending":
            self._world.start_container(name)
        elif phase == "Running" and (code := self.script(pod)) is not None:
            self._world.end(name, code, said_by(pod, code))

    def _stop(self, pod: Json, name: str, phase: str) -> None:
        """As long as its grace period, the process saves."""
        since = self._dying.setdefault(pod["metadata"]["uid"], time.monotonic())
        if time.monotonic() - since < self.grace:
            return
        if phase == "Running":
            self._world.end(name, _ASKED_TO_STOP, said_by(pod, _ASKED_TO_STOP))
        self._world.remove(name)


def said_by(pod: Json, code: int) -> str:
    """The report of a pod at its end."""
    report = RunReport(exit_code=code, message="x") if code in (64, 65, 75) else RunReport(message="x")
    if code == 0 and _PREFLIGHT in pod["metadata"]["labels"]:
        report = _PASSED
    elif code == 0:
        model = MODEL.model_copy(update={"metrics": {"eval_loss": 0.25}})
        best = CheckpointStatus(step=100, metric="loss", value=0.25)
        report = DONE.model_copy(update={"model": model, "best": best})
    return report.model_dump_json(by_alias=True, exclude_none=True)
