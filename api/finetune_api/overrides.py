"""Overrides single fields of a spec or a RunConfig by path, and validates the result. Pure.

The trainer uses it for `--set`; a search or an ensemble uses it to derive trials or members from one job.
"""

import copy
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from finetune_api.base import ApiModel, OneOf
from finetune_api.unknown_fields import hint, object_in

Document = dict[str, Any]
_NULL = re.compile(r"|~|null|Null|NULL")
_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
_WHOLE = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


class OverrideError(ValueError):
    """An override cannot be applied; `place` is the path of the invalid field."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = place


def overridden(
    document: Document,
    overrides: Mapping[str, Any],
    kind: type[ApiModel],
    suggested: Collection[str] | None = None,
) -> Document:
    """The wire form of a `kind` with overridden fields, for example training.optimizer.learningRate.

    None removes a field. In an object with exactly one member, the new member replaces the old one.
    Raises OverrideError for an unknown field, with the closest match among the fields in `suggested` or all, and for an
    invalid value.
    """
    changed = copy.deepcopy(document)
    for path, value in overrides.items():
        _set(changed, path, value, kind, suggested)
    try:
        kind.from_json(changed)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or ", ".join(overrides)
        raise OverrideError(place, first["msg"].removeprefix("Value error, ")) from error
    return changed


def read_assignment(text: str) -> tuple[str, Any]:
    """Path and value of `path=value`; the value is parsed as a YAML 1.2 scalar or as JSON. Raises ValueError."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ValueError(f"{text!r} is not an assignment; write PATH=VALUE, for example training.seed=2")
    return path.strip(), _value(value.strip())


def _set(
    document: Document, path: str, value: Any, kind: type[ApiModel], suggested: Collection[str] | None
) -> None:
    holder, names = document, path.split(".")
    inner: type[ApiModel] | None = kind
    for depth, name in enumerate(names):
        if inner is None:
            whole = ".".join(names[:depth])
            raise OverrideError(path, f"{whole} is a value and has no fields; set {whole} itself")
        field = _fields(inner).get(name)
        if field is None:
            raise OverrideError(path, f"unknown field{hint(path, kind, suggested=suggested)}")
        if issubclass(inner, OneOf):
            for other in set(holder) - {name}:
                del holder[other]
        if depth == len(names) - 1:
            holder[name] = copy.deepcopy(value)
        else:
            if not isinstance(holder.get(name), dict):
                holder[name] = {}
            holder, inner = holder[name], object_in(field.annotation)


def _fields(kind: type[ApiModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in kind.model_fields.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        pass
    if _NULL.fullmatch(text):
        return None
    if _BOOLEAN.fullmatch(text):
        return text.lower() == "true"
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text
