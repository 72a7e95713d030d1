"""The CustomResourceDefinition as a value; `make generate` writes it as YAML."""

from typing import Any

from finetune_api import GROUP, KIND, PLURAL, VERSION
from finetune_api.base import validations
from finetune_api.finetunejob import JOB_RULES, FineTuneJobSpec
from finetune_api.schema import structural
from finetune_api.status import FineTuneJobStatus

_COLUMNS = (
    ("Phase", ".status.phase", 0),
    ("Progress", ".status.display.progress", 0),
    ("Epoch", ".status.display.epoch", 0),
    ("Loss", ".status.display.loss", 0),
    ("Best", ".status.display.best", 0),
    ("ETA", ".status.display.eta", 0),
    ("GPUs", ".status.display.gpus", 0),
    ("Age", ".metadata.creationTimestamp", 0),
    ("Model", ".spec.model.uri", 1),
    ("Queue", ".spec.scheduling.queue", 1),
    ("Attempt", ".status.attempt", 1),
    ("Output", ".status.effective.outputUri", 1),
    ("Message", ".status.display.message", 1),
)


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition of FineTuneJob."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["ftj"],
                "categories": ["finetune"],
            },
            "scope": "Namespaced",
            "versions": [_version()],
        },
    }


def _version() -> dict[str, Any]:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "selectableFields": [{"jsonPath": ".status.phase"}],
        "additionalPrinterColumns": [_column(*column) for column in _COLUMNS],
        "schema": {"openAPIV3Schema": _schema()},
    }


def _column(name: str, path: str, priority: int) -> dict[str, Any]:
    kind = {"Age": "date", "Attempt": "integer"}.get(name, "string")
    # the server drops a priority of 0; if it were written, Argo CD would show the CRD as out of sync forever
    return {"name": name, "type": kind, "jsonPath": path} | ({"priority": priority} if priority else {})


def _schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "FineTuneJob fine-tunes a pretrained model, publishes the result and records it in its status.",
        "required": ["spec"],
        "x-kubernetes-validations": validations(JOB_RULES),
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
            "kind": {"type": "string", "description": KIND},
            "metadata": {"type": "object"},
            "spec": structural(FineTuneJobSpec),
            # kstatus takes an object without status as finished, so a status exists from creation
            "status": _without_defaults(structural(FineTuneJobStatus))
            | {"default": {"observedGeneration": -1}},
        },
    }


def _without_defaults(node: dict[str, Any]) -> dict[str, Any]:
    """The same schema without defaults: only the operator writes status, and old objects must not change."""
    out = {key: value for key, value in node.items() if key != "default"}
    if "properties" in node:
        out["properties"] = {name: _without_defaults(child) for name, child in node["properties"].items()}
    for child in ("items", "additionalProperties"):
        if child in node:
            out[child] = _without_defaults(node[child])
    return out
