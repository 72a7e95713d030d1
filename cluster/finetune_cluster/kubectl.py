"""Talks to a cluster through kubectl: enough for setting one up, and no Python client to load."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_cluster.binaries import binary
from finetune_cluster.commands import run


class Kubectl:
    """kubectl with one kubeconfig (None: the user's own)."""

    def __init__(self, kubeconfig: Path | None) -> None:
        self._kubeconfig = kubeconfig

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        options = ["--kubeconfig", str(self._kubeconfig)] if self._kubeconfig else []
        return run([binary("kubectl"), *options, *arguments], stdin=stdin)

    def get(self, *arguments: str) -> dict[str, Any]:
        """An object, or a List of objects, as JSON."""
        found: dict[str, Any] = json.loads(self.run("get", *arguments, "-o", "json"))
        return found

    def apply(self, objects: Sequence[dict[str, Any]]) -> None:
        if objects:
            wrapped = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
            self.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(wrapped))
