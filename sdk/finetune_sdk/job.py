"""A FineTuneJob in the cluster: its typed spec and status, and what can be done with it."""

import io
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from finetune_api import uris
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.status import ConditionType, EpochStatus, FineTuneJobStatus, ModelStatus, Phase
from finetune_core.plan.reading import status_of
from finetune_sdk import copypod
from finetune_sdk.cluster import Cluster
from finetune_sdk.errors import JobFailedError, ModelError, UnreachableError, WaitTimeoutError
from finetune_sdk.html import page
from finetune_sdk.model import copied, copy_folder, extract

Body = dict[str, Any]

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 300.0
"""How long to ask an API server again that does not respond; training continues without us."""


class Job:
    """A job as it was last read; `refresh` reads it again."""

    def __init__(self, cluster: Cluster, body: Body) -> None:
        self._cluster, self.body = cluster, body

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.body["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.body["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        """Its uid, which no other job has, not even one of the same name."""
        return str(self.body["metadata"]["uid"])

    @property
    def spec(self) -> FineTuneJobSpec:
        """Its spec."""
        return FineTuneJobSpec.model_validate(self.body["spec"])

    @property
    def status(self) -> FineTuneJobStatus:
        """Its status; empty until the operator has seen the job."""
        return status_of(self.body)

    @property
    def phase(self) -> Phase:
        """Pending, Running, Suspended, Succeeded or Failed."""
        return self.status.phase or Phase.PENDING

    @property
    def message(self) -> str:
        """The current state in one sentence."""
        display = self.status.display
        return (display and display.message) or "waiting for the operator"

    @property
    def reason(self) -> str:
        """The machine-readable reason of the current state, such as DataError."""
        return next((c.reason for c in self.status.conditions if c.type is ConditionType.RUNNING), "")

    @property
    def finished(self) -> bool:
        """Whether it has succeeded or failed."""
        return self._holds(ConditionType.FINISHED)

    @property
    def succeeded(self) -> bool:
        """Whether its model is published."""
        return self._holds(ConditionType.COMPLETE)

    @property
    def epochs(self) -> list[EpochStatus]:
        """The latest evaluations, at most 50."""
        return self.status.epochs

    @property
    def model(self) -> ModelStatus | None:
        """The published model: URI, digest, metrics."""
        return self.status.model

    @property
    def exit_code(self) -> int | None:
        """Exit code of the last attempt that ended."""
        return next((a.exit_code for a in reversed(self.status.attempts) if a.exit_code is not None), None)

    def refresh(self) -> "Job":
        """Read it again. Raises NotFoundError once it is deleted."""
        self.body = self._cluster.get("FineTuneJob", self.namespace, self.name)
        return self

    def changes(self, timeout: float | None = None) -> Iterator["Job"]:
        """The job now and after every change, until it has finished.

        An API server that does not respond is asked again for five minutes. Raises WaitTimeoutError after `timeout`
        seconds, NotFoundError once the job is deleted.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        version, answered = "", time.monotonic()
        while True:
            try:
                self.refresh()
            except UnreachableError:
                if time.monotonic() - answered > PATIENCE_SECONDS:
                    raise
            else:
                answered = time.monotonic()
                if self.body["metadata"].get("resourceVersion") != version:
                    version = self.body["metadata"].get("resourceVersion", "")
                    yield self
                if self.finished:
                    return
            if time.monotonic() > deadline:
                raise WaitTimeoutError(f"{self.name} has not finished after {timeout:g} s: {self.message}")
            time.sleep(POLL_SECONDS)

    def wait(self, timeout: float | None = None, progress: Callable[["Job"], object] | None = None) -> "Job":
        """Wait for the end; `progress` is called with every change. Raises JobFailedError, WaitTimeoutError."""
        for changed in self.changes(timeout):
            if progress:
                progress(changed)
        if not self.succeeded:
            raise JobFailedError(self.name, self.reason, self.message)
        return self

    def suspend(self) -> "Job":
        """Save a checkpoint, stop and release the resources."""
        return self._patched({"suspend": True})

    def resume(self) -> "Job":
        """Go on from the checkpoint."""
        return self._patched({"suspend": False})

    def delete(self) -> None:
        """Delete the job with its pods; its model stays."""
        self._cluster.delete("FineTuneJob", self.namespace, self.name)

    def pods(self) -> list[Body]:
        """The pods of all its attempts that still exist, the oldest attempt first."""
        found = self._cluster.list_all("Pod", self.namespace, f"finetune.dev/job-uid={self.uid}")
        return sorted(found, key=lambda pod: int(pod["metadata"]["labels"].get("finetune.dev/attempt", 0)))

    def get_model(self, target: Path, claim: Path | None = None) -> Path:
        """Copy the published model to the folder `target` and check it against its checksums.

        `claim` is a folder of this machine that holds the contents of the model's claim. Without it a short-lived pod
        mounts the claim, with your rights to create pods and to exec in them. Raises ModelError, ClusterError.
        """
        model, effective = self.model, self.status.effective
        if model is None or not model.uri:
            raise ModelError(f"{self.name} has no model: {self.message}")
        place = uris.parse(model.uri)
        if claim is not None:
            return copied(target, model.digest, lambda folder: copy_folder(claim / place.path, folder))
        image = effective.image if effective else None
        if image is None:
            raise ModelError(
                f"the status of {self.name} does not name its image; mount the claim and name its folder"
            )
        pod = copypod.pod_of(self.body, place.name, image)

        def fill(folder: Path) -> None:
            with copypod.running(self._cluster, self.namespace, pod) as name:
                command = ["tar", "-cf", "-", "-C", f"{copypod.MOUNT}/{place.path}", "."]
                with self._cluster.execute(self.namespace, name, command) as socket:
                    extract(io.BufferedReader(copypod.OutputOf(socket)), folder)

        return copied(target, model.digest, fill)

    def log(self, pod: str, *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
        """The lines of the log of one of its pods. Raises NotFoundError when the pod is gone."""
        return self._cluster.log(self.namespace, pod, follow=follow, tail=tail)

    def _patched(self, spec: Body) -> "Job":
        self.body = self._cluster.patch_spec("FineTuneJob", self.namespace, self.name, spec)
        return self

    def _holds(self, kind: ConditionType) -> bool:
        return any(c.type is kind and c.status == "True" for c in self.status.conditions)

    def _repr_html_(self) -> str:
        return page(self.name, self.phase.value, self.message, self.status)

    def __repr__(self) -> str:
        return f"<FineTuneJob {self.namespace}/{self.name}: {self.phase}: {self.message}>"
