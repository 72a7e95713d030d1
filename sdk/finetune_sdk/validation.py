"""Finds what the API server or the operator would refuse, without a cluster. Pure but for the reading of files."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from finetune_api import API_VERSION, GROUP, KIND
from finetune_api.finetunejob import JOB_RULES, FineTuneJobSpec
from finetune_api.unknown_fields import hint
from finetune_core.ensemble import members
from finetune_core.plan.kueue import faults_in, kueue_annotations, kueue_labels
from finetune_core.search import space
from finetune_sdk.metadata import faults_in_metadata
from finetune_sdk.wrong_values import described
from finetune_sdk.yaml_files import documents_of

Body = dict[str, Any]

_PARTS = ("apiVersion", "kind", "metadata", "spec", "status")
_OF_THE_SERVER = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")
"""Parts of the metadata that the API server writes."""


class Document(NamedTuple):
    """A FineTuneJob of a file, and where it is."""

    place: str
    body: Body


def documents_in(file: Path) -> list[Document]:
    """The FineTuneJobs of a YAML file, valid or not. Raises ValueError if it cannot be read or has none.

    A List has several, as `kubectl get -o yaml` prints them. Objects of other API groups are ignored, and so is what a
    cluster wrote into a job, such as its status.
    """
    try:
        read = documents_of(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
    except MarkedYAMLError as error:
        raise ValueError(f"{file}{_mistake(error)}{_of_a_template(file)}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start + 1}); save it as UTF-8") from error
    except YAMLError as error:
        raise ValueError(f"{file}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{file}: lists or fields are nested too deeply to be read") from error
    documents = [one for document in read for one in _items(document)]
    ours = [(number, document) for number, document in enumerate(documents, 1) if _is_ours(document)]
    if not ours:
        raise ValueError(f"{file}: no FineTuneJob found; write apiVersion: {API_VERSION} and kind: {KIND}")
    alone = len(documents) == 1
    return [
        Document(f"{file}" if alone else f"{file} (document {number})", _as_written(body))
        for number, body in ours
    ]


def faults_of(body: Body) -> Iterator[str]:
    """What is wrong with a FineTuneJob, each with its place."""
    for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if body.get(field) != wanted:
            yield f"{field}: write {wanted}"
    yield from _strange(body)
    yield from faults_in_metadata(body.get("metadata"))
    parts = {part: body.get(part) for part in ("metadata", "spec")}
    readable = {part: value for part, value in parts.items() if isinstance(value, dict)}
    yield from (rule.message for rule in JOB_RULES if rule.holds and not rule.holds(readable))
    try:
        spec = FineTuneJobSpec.from_json(body.get("spec") or {})
    except ValidationError as error:
        yield from map(_described, error.errors())
        return
    if isinstance(meta := body.get("metadata"), dict):
        yield from faults_in(kueue_labels(meta), kueue_annotations(meta), spec)
    if spec.search and (fault := space.fault_in(spec)):
        yield fault
    if spec.ensemble and (fault := members.fault_in(spec)):
        yield fault


def _strange(body: Body) -> Iterator[str]:
    """Fields beside spec: most belong into it, and would not be read here."""
    for name in body.keys() - set(_PARTS):
        near = get_close_matches(str(name).casefold(), _PARTS, n=1, cutoff=0.7)
        meant = f"; did you mean {near[0]}?" if near else hint(str(name), FineTuneJobSpec, "spec.")
        yield f"{name}: unknown field beside spec{meant or '; remove it'}"


def _items(document: Any) -> list[Any]:
    """The objects of a List, or the document."""
    listed = document.get("items") if isinstance(document, dict) and document.get("kind") == "List" else None
    return listed if isinstance(listed, list) else [document]


def _mistake(error: MarkedYAMLError) -> str:
    """Where the text is not YAML, and why."""
    mark = error.problem_mark
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{place}: " + ", ".join(part for part in (error.context, error.problem) if part)


def _of_a_template(file: Path) -> str:
    """The remedy for a file that Helm has not rendered yet."""
    return "; render it first with helm template" if "{{" in file.read_text(encoding="utf-8") else ""


def _as_written(body: Body) -> Body:
    """Without what a cluster wrote: a job from `kubectl get -o yaml` is one to train, and not one that has ended."""
    written = {part: value for part, value in body.items() if part != "status"}
    if isinstance(meta := written.get("metadata"), dict):
        written["metadata"] = {name: value for name, value in meta.items() if name not in _OF_THE_SERVER}
    return written


def _is_ours(document: Any) -> bool:
    """Matches kind or group, because either may be misspelt."""
    if not isinstance(document, dict):
        return False
    return document.get("kind") == KIND or str(document.get("apiVersion")).startswith(f"{GROUP}/")


def _described(item: Any) -> str:
    path = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        return f"spec.{path}: unknown field{hint(path, FineTuneJobSpec, 'spec.')}"
    where = f"spec.{path}: " if path else "spec: " if item["type"] == "model_type" else ""
    return f"{where}{described(item, FineTuneJobSpec)}"
