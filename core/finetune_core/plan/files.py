"""The files with a run's configuration, and how they reach its pod.

They travel as annotations of the pod template, which a downwardAPI volume shows as files: an attempt needs no further
object. Files that are too large for that travel in a ConfigMap.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api import GROUP
from finetune_api.base import ApiModel
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import Child, metadata

RUN_CONFIG_FILE = "run.json"
CA_FILE = "ca.crt"
LARGEST = 16 * 1024
"""Bytes of names and texts; a usual run has 3 KiB. Every pod, Kueue's Workload and every watch of them have a copy, all
annotations of an object have 256 KiB together, and Fluent Bit knows nothing of a pod of more than 32 KiB."""


@dataclass(frozen=True)
class Files:
    """Texts by file name. `config_map` is the name of the ConfigMap that has them; None: annotations have them."""

    texts: Mapping[str, str]
    config_map: str | None

    @property
    def annotations(self) -> dict[str, str]:
        """The annotations of the pod template that carry them."""
        return {} if self.config_map else _annotations(self.texts)

    def volume(self, name: str) -> dict[str, Any]:
        """A volume of this name with all files."""
        if self.config_map:
            return {"name": name, "configMap": {"name": self.config_map}}
        items = [
            {"path": file, "fieldRef": {"fieldPath": f"metadata.annotations['{_annotation(file)}']"}}
            for file in self.texts
        ]
        return {"name": name, "downwardAPI": {"items": items}}


def files_of(
    child: Child, config: ApiModel | None, texts: Mapping[str, str], *, in_config_map: bool
) -> Files:
    """The files of an attempt or a preflight: what its trainer reads as run.json, if it reads one, and other texts.

    `in_config_map` asks for a ConfigMap however small they are.
    """
    if config:
        texts = {**texts, RUN_CONFIG_FILE: json.dumps(config.to_json())}
    return Files(texts, child.name if in_config_map or _size(texts) > LARGEST else None)


def config_map_of(job: FineTuneJob, child: Child, files: Files) -> dict[str, Any] | None:
    """The ConfigMap that an attempt or a preflight reads; None if annotations carry its files."""
    if files.config_map is None:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(job, child),
        "immutable": True,
        "data": dict(files.texts),
    }


def _size(texts: Mapping[str, str]) -> int:
    """As the API server counts annotations."""
    return sum(len(key.encode()) + len(text.encode()) for key, text in _annotations(texts).items())


def _annotations(texts: Mapping[str, str]) -> dict[str, str]:
    return {_annotation(file): text for file, text in texts.items()}


def _annotation(file: str) -> str:
    return f"{GROUP}/{file}"
