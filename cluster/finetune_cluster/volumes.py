"""The pool of persistent volumes: folders of the host, offered as `local` volumes (no provisioner here)."""

import os
import shutil
from pathlib import Path
from typing import Any

from finetune_cluster.kubectl import Kubectl
from finetune_cluster.nodeconfig import NODE_NAME
from finetune_cluster.readiness import wait_until

STORAGE_CLASS = "finetune-local"
SIZE = "5Gi"
OWNER = 65532  # user and group of our images; kubelet's fsGroup serves others
_PREFIX = "pv-"


class VolumePool:
    """Persistent volumes pv-NN on folders of the same name."""

    def __init__(self, kubectl: Kubectl, folder: Path) -> None:
        self._kubectl = kubectl
        self._folder = folder

    def ensure(self, count: int) -> int:
        """Recycle what was released, create until `count` are Available; returns how many are new."""
        ours = self._phases()
        self._recycle([name for name, phase in ours.items() if phase in ("Released", "Failed")])
        available = sum(phase in ("Available", "Pending") for phase in ours.values())
        kept = {name for name, phase in ours.items() if phase not in ("Released", "Failed")}
        new = free_names(kept, max(0, count - available))
        for name in new:
            self._make_folder(self._folder / name)
        volumes = [persistent_volume(name, self._folder / name) for name in new]
        self._kubectl.apply([storage_class(), *volumes])
        wait_until(lambda: "Pending" not in self._phases().values(), "The new volumes", seconds=30)
        return len(new)

    def host_path(self, namespace: str, claim: str) -> Path:
        """The host's folder behind a bound claim."""
        bound = self._kubectl.get("persistentvolumeclaim", claim, "--namespace", namespace)
        volume = self._kubectl.get("persistentvolume", bound["spec"]["volumeName"])
        return Path(volume["spec"]["local"]["path"])

    def _phases(self) -> dict[str, str]:
        volumes = self._kubectl.get("persistentvolumes")["items"]
        return {volume["metadata"]["name"]: phase_of(volume) for volume in volumes if is_ours(volume)}

    def _recycle(self, names: list[str]) -> None:
        if not names:
            return
        self._kubectl.run("delete", "persistentvolume", *names, "--wait=true", "--timeout=60s")
        for name in names:
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def _make_folder(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.chown(folder, OWNER, OWNER)
        folder.chmod(0o2775)


def storage_class() -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
        "reclaimPolicy": "Retain",
    }


def persistent_volume(name: str, path: Path) -> dict[str, Any]:
    on_our_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": SIZE},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
            "volumeMode": "Filesystem",
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_our_node]}]}},
        },
    }


def free_names(taken: set[str], count: int) -> list[str]:
    """The first `count` names pv-NN that are not taken."""
    names: list[str] = []
    number = 0
    while len(names) < count:
        name = f"{_PREFIX}{number:02d}"
        if name not in taken:
            names.append(name)
        number += 1
    return names


def is_ours(volume: dict[str, Any]) -> bool:
    return bool(volume["spec"].get("storageClassName") == STORAGE_CLASS)


def phase_of(volume: dict[str, Any]) -> str:
    return str(volume.get("status", {}).get("phase", "Pending"))
