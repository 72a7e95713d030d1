"""What the API server refuses of an object's metadata. Pure."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

_FIELDS = (
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PART = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_PART}")
_LABEL = re.compile(rf"({_PART})?")


def faults_in_metadata(metadata: Any) -> Iterator[str]:
    """Each with its place. The name is left to the rules of a FineTuneJob."""
    if not isinstance(metadata, dict):
        return
    for name in metadata.keys() - set(_FIELDS):
        near = get_close_matches(str(name), _FIELDS, n=1, cutoff=0.7)
        yield f"metadata.{name}: unknown field" + (f"; did you mean metadata.{near[0]}?" if near else "")
    namespace = metadata.get("namespace")
    if namespace is not None and not _NAMESPACE.fullmatch(str(namespace)):
        yield f"metadata.namespace: {namespace!r} is no name of a namespace, which has a-z, 0-9 and '-'"
    for part in ("labels", "annotations"):
        yield from _faults_in_map(part, metadata.get(part))


def _faults_in_map(part: str, given: Any) -> Iterator[str]:
    if given is None:
        return
    if not isinstance(given, dict):
        yield f"metadata.{part}: write names with values, for example {{team: nlp}}"
        return
    for key, value in given.items():
        place = f"metadata.{part}.{key}"
        if not _KEY.fullmatch(str(key)):
            yield f"{place}: a name has letters, digits, '-', '_' and '.', after a domain and '/' where it has one"
        if not isinstance(value, str | None):
            yield f"{place}: a value is a text, not {str(value).lower()}; write it in quotes"
        elif part == "labels" and not _LABEL.fullmatch(value or ""):
            yield f"{place}: {str(value)[:80]!r} is no value of a label: at most 63 letters, digits, '-', '_' and '.'"
