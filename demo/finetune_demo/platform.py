"""Helpers of the demo and the end-to-end tests: install the chart, copy files to and from claims."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_cluster.binaries import binary
from finetune_cluster.commands import run
from finetune_cluster.kubectl import Kubectl

CHART = Path(__file__).resolve().parents[2] / "charts" / "finetune-operator"
SYSTEM = "finetune-system"
_USER = 65532
_HELPER_IMAGE_COMMAND = ["sleep", "3600"]


@dataclass(frozen=True)
class Platform:
    """A running cluster and the references of our images."""

    kubeconfig: Path
    images: dict[str, str]

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """The output of kubectl. Raises ClusterError."""
        return Kubectl(self.kubeconfig).run(*arguments, stdin=stdin)

    def get(self, *arguments: str) -> dict[str, Any]:
        """An object, or a List of objects."""
        return Kubectl(self.kubeconfig).get(*arguments)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects."""
        Kubectl(self.kubeconfig).apply(objects)

    def install_operator(self, *settings: str) -> None:
        """Install or upgrade the chart, for a cluster that simulates its GPUs, and wait until it is ready."""
        values = {
            "image.reference": self.images["operator"],
            "trainer.image": self.images["trainer"],
            "platform.simulateGPUs": "true",
            "defaults.output.size": "2Gi",
        }
        if "script" in self.images:
            values["trainer.scriptImage"] = self.images["script"]
        options = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
        extra = [part for setting in settings for part in ("--set", setting)]
        helm = [str(binary("helm")), "--kubeconfig", str(self.kubeconfig), "upgrade", "--install"]
        target = ["finetune-operator", str(CHART), "--namespace", SYSTEM, "--create-namespace"]
        run([*helm, *target, "--wait", "--timeout", "5m", *options, *extra])

    def make_claim(self, namespace: str, name: str, size: str = "2Gi") -> None:
        """A claim of the default storage class."""
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
        self.apply(_object("v1", "PersistentVolumeClaim", namespace, name) | {"spec": spec})

    def copy_in(self, namespace: str, claim: str, folder: Path) -> None:
        """Copy the contents of a folder to the root of a claim."""
        with self._helper(namespace, claim) as pod:
            for path in sorted(folder.iterdir()):
                self.kubectl("cp", "--retries=3", str(path), f"{namespace}/{pod}:/claim/")

    def copy_out(self, namespace: str, claim: str, path: str, folder: Path) -> None:
        """Copy a folder of a claim to the host."""
        folder.mkdir(parents=True, exist_ok=True)
        with self._helper(namespace, claim) as pod:
            self.kubectl("cp", "--retries=3", f"{namespace}/{pod}:/claim/{path}", str(folder))

    @contextmanager
    def _helper(self, namespace: str, claim: str) -> Iterator[str]:
        """A pod that has the claim mounted at /claim."""
        name = f"copy-{claim}"[:63].rstrip("-")
        self.apply(_helper_pod(namespace, name, claim, self.images["trainer"]))
        try:
            self.kubectl("wait", "-n", namespace, f"pod/{name}", "--for=condition=Ready", "--timeout=180s")
            yield name
        finally:
            self.kubectl("delete", "pod", "-n", namespace, name, "--grace-period=0", "--force", "--wait=true")


def _object(version: str, kind: str, namespace: str, name: str) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"namespace": namespace, "name": name}}


def _helper_pod(namespace: str, name: str, claim: str, image: str) -> dict[str, Any]:
    container = {
        "name": "copy",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": _HELPER_IMAGE_COMMAND,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "claim", "mountPath": "/claim"}],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": claim}}],
        "containers": [container],
    }
    return _object("v1", "Pod", namespace, name) | {"spec": spec}
