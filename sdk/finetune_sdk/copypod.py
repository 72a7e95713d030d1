"""A short-lived restricted pod that mounts a claim read-only, from which a folder is read with the user's rights."""

import io
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from finetune_api import GROUP
from finetune_sdk.cluster import Body, Cluster
from finetune_sdk.errors import ClusterError, ModelError, WaitTimeoutError

MOUNT = "/claim"
LIFETIME_SECONDS = 3600
_START_SECONDS = 180.0
_POLL_SECONDS = 1.0
_USER = 65532
_NAME_LENGTH = 40
_BROKEN = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError")


def pod_of(job: Body, claim: str, image: str) -> Body:
    """The pod: it sleeps, and ends by itself after an hour. Pull secrets, nodes and tolerations are the job's. Pure."""
    name = job["metadata"]["name"][:_NAME_LENGTH]
    scheduling = job["spec"].get("scheduling") or {}
    secrets_of = [{"name": one} for one in scheduling.get("imagePullSecrets") or []]
    spec = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": LIFETIME_SECONDS,
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "nodeSelector": scheduling.get("nodeSelector"),
        "tolerations": scheduling.get("tolerations"),
        "imagePullSecrets": secrets_of or None,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # the mount is read-only, not the claim: a claim mounted by others for writing can still be attached
        "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": claim}}],
        "containers": [
            {
                "name": "copy",
                "image": image,
                "command": ["sleep", str(LIFETIME_SECONDS)],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
                "volumeMounts": [{"name": "claim", "mountPath": MOUNT, "readOnly": True}],
            }
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-get-model-{secrets.token_hex(3)}",
            "labels": {
                "app.kubernetes.io/managed-by": "finetune-cli",
                f"{GROUP}/copy-of": job["metadata"]["uid"],
            },
        },
        "spec": {field: value for field, value in spec.items() if value is not None},
    }


@contextmanager
def running(cluster: Cluster, namespace: str, pod: Body) -> Iterator[str]:
    """Create the pod, wait until it runs, and delete it at the end. Raises ClusterError, WaitTimeoutError."""
    name = cluster.create("Pod", namespace, pod)["metadata"]["name"]
    try:
        _wait(cluster, namespace, name)
        yield name
    finally:
        cluster.delete("Pod", namespace, name, grace_seconds=0)


def _wait(cluster: Cluster, namespace: str, name: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        status = cluster.get("Pod", namespace, name).get("status") or {}
        if status.get("phase") == "Running":
            return
        why = _waits_for(status)
        if status.get("phase") == "Failed" or any(reason in why for reason in _BROKEN):
            raise ClusterError(
                f"the pod {name} that reads the claim cannot start: {why or status.get('message')}"
            )
        if time.monotonic() > deadline:
            raise WaitTimeoutError(f"the pod {name} that reads the claim has not started in time: {why}")
        time.sleep(_POLL_SECONDS)


def _waits_for(status: Body) -> str:
    """What a pod that does not run waits for. Pure."""
    for container in status.get("containerStatuses") or []:
        if waiting := (container.get("state") or {}).get("waiting"):
            return f"{waiting.get('reason')} {waiting.get('message') or ''}".strip()
    for condition in status.get("conditions") or []:
        if condition.get("status") == "False" and condition.get("message"):
            return str(condition["message"])
    return "no node has taken it yet"


class OutputOf(io.RawIOBase):
    """The standard output of a command in a pod, as a file."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._rest = socket, b""

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As RawIOBase: 0 at the end. Raises ModelError if the command failed."""
        while not self._rest:
            if not self._socket.is_open() and not self._socket.peek_stdout():
                self._check()
                return 0
            self._socket.update(timeout=1)
            if self._socket.peek_stdout():
                self._rest = self._socket.read_stdout()
        part = self._rest[: len(buffer)]
        self._rest = self._rest[len(part) :]
        buffer[: len(part)] = part
        return len(part)

    def _check(self) -> None:
        if self._socket.returncode:
            said = self._socket.read_stderr()
            text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
            raise ModelError(f"the model's folder cannot be read: {' '.join(text.split())}")
