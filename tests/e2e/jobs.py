"""Applies FineTuneJobs and waits for what they say."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_demo.platform import Platform

Body = dict[str, Any]
LABEL = "finetune.dev/job-name"
GRACE_SECONDS = 30
SLOW = 600
"""Seconds that a job may take on a machine that has other work: two processes wait for each other at every step."""
ONE_THREAD = {"name": "OMP_NUM_THREADS", "value": "1"}
"""For scripts: on a busy machine PyTorch's threads, which spin while they wait, make a step eight times slower."""


@dataclass(frozen=True)
class Jobs:
    """The FineTuneJobs of a namespace."""

    platform: Platform
    namespace: str

    def apply(self, name: str, spec: Body) -> None:
        """Create a job."""
        body = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "spec": spec}
        self.platform.apply(body | {"metadata": {"name": name, "namespace": self.namespace}})

    def status(self, name: str) -> Body:
        """The job's status."""
        body = self.platform.get("ftj", name, "-n", self.namespace)
        status: Body = body.get("status", {})
        return status

    def children(self, kind: str, name: str) -> list[Body]:
        """The Jobs or pods of a job."""
        items: list[Body] = self.platform.get(kind, "-n", self.namespace, "-l", f"{LABEL}={name}")["items"]
        return items

    def patch(self, name: str, spec: str) -> None:
        """Change the spec by a merge patch in JSON."""
        self.platform.kubectl(
            "patch", "ftj", name, "-n", self.namespace, "--type=merge", "-p", f'{{"spec": {spec}}}'
        )

    def wait(self, name: str, what: str, test: Callable[[Body], bool], seconds: float = 300) -> Body:
        """Wait until the status passes a test; fails with the whole status."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.status(name)
            if test(status):
                return status
            finished = status.get("phase") in ("Succeeded", "Failed")
            assert time.monotonic() < deadline and not finished, f"{name} never was {what}: {status}"
            time.sleep(0.5)

    def wait_phase(self, name: str, phase: str, seconds: float = 300) -> Body:
        """Wait for a phase."""
        return self.wait(name, phase, lambda status: status.get("phase") == phase, seconds)

    def wait_step(self, name: str, step: int, seconds: float = 300) -> Body:
        """Wait until a checkpoint of at least this step was reported."""
        return self.wait(
            name,
            f"at a checkpoint of step {step}",
            lambda s: (s.get("latestCheckpoint") or {}).get("step", 0) >= step,
            seconds,
        )


def tiny(steps: int = 60, data: str = "few.jsonl", **spec: Any) -> Body:
    """A job on the tiny model; a checkpoint every 20 steps. Without preflight, which has a separate test."""
    training = {
        "maxSteps": steps,
        "batchSize": 8,
        "evaluation": {"every": {"steps": max(steps // 2, 1)}},
        "checkpoint": {"every": {"steps": 20}, "gracePeriodSeconds": GRACE_SECONDS},
    }
    return {
        "model": {"uri": "pvc://demo/models/tiny"},
        "dataset": {"train": {"uri": f"pvc://demo/data/{data}"}, "preprocessing": {"maxLength": 32}},
        "objective": {"classification": {"labels": ["neg", "pos"]}},
        "training": training,
        "preflight": "Skip",
    } | spec


def condition(status: Body, kind: str) -> Body:
    """A condition of a status."""
    return next(item for item in status["conditions"] if item["type"] == kind)
