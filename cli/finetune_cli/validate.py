"""Validates FineTuneJobs in YAML files with the API server's rules."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from finetune_api import API_VERSION, GROUP, KIND
from finetune_api.finetunejob import JOB_RULES, FineTuneJobSpec


def faults_of(file: Path) -> Iterator[str]:
    """The errors of a file's FineTuneJobs, each with its place; a file without a FineTuneJob is an error.

    Objects of other API groups are ignored.
    """
    try:
        documents = list(YAML(typ="safe").load_all(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        yield f"{file}: {error}"
        return
    ours = [(number, document) for number, document in enumerate(documents, 1) if _is_ours(document)]
    if not ours:
        yield f"{file}: no FineTuneJob found; write apiVersion: {API_VERSION} and kind: {KIND}"
    for number, document in ours:
        place = f"{file}" if len(documents) == 1 else f"{file} (document {number})"
        yield from (f"{place}: {fault}" for fault in _faults(document))


def _is_ours(document: Any) -> bool:
    """Matches kind or group, because either may be misspelt."""
    if not isinstance(document, dict):
        return False
    return document.get("kind") == KIND or str(document.get("apiVersion")).startswith(f"{GROUP}/")


def _faults(document: dict[str, Any]) -> Iterator[str]:
    for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if document.get(field) != wanted:
            yield f"{field}: write {wanted}"
    parts = {part: document.get(part) for part in ("metadata", "spec")}
    readable = {part: value for part, value in parts.items() if isinstance(value, dict)}
    yield from (rule.message for rule in JOB_RULES if rule.holds and not rule.holds(readable))
    try:
        FineTuneJobSpec.from_json(document.get("spec") or {})
    except ValidationError as error:
        for item in error.errors():
            path = ".".join(["spec", *map(str, item["loc"])])
            yield f"{path}: {item['msg'].removeprefix('Value error, ')}"
