"""The CustomResourceDefinition as a value; `make generate` writes it down as YAML."""

from typing import Any

from finetune_api import GROUP, KIND, PLURAL, VERSION
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
    # a priority of 0 is left out, as the server does: written, it would be out of sync for ever under Argo CD
    return {"name": name, "type": kind, "jsonPath": path} | ({"priority": priority} if priority else {})


def _schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "FineTuneJob trains a model and records the result in its status.",
        "required": ["spec"],
        "x-kubernetes-validations": [rule.validation() for rule in JOB_RULES],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
            "kind": {"type": "string", "description": KIND},
            "metadata": {"type": "object"},
            "spec": structural(FineTuneJobSpec),
            # kstatus takes an object without status for finished, so the status is there from birth
            "status": _without_defaults(structural(FineTuneJobStatus))
            | {"default": {"observedGeneration": -1}},
        },
    }


def _without_defaults(node: dict[str, Any]) -> dict[str, Any]:
    """The same schema without defaults: the operator writes status, nobody fills it in (nor rewrites old ones)."""
    out = {key: value for key, value in node.items() if key != "default"}
    if "properties" in node:
        out["properties"] = {name: _without_defaults(child) for name, child in node["properties"].items()}
    for child in ("items", "additionalProperties"):
        if child in node:
            out[child] = _without_defaults(node[child])
    return out
