"""Overrides single fields of a spec or a RunConfig by path, and validates the result. Pure.

The trainer uses it for `--set`; a search or an ensemble uses it to derive trials or members from one job.
"""

import copy
import json
import re
from collections.abc import Collection, Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from finetune_api.base import ApiModel, OneOf

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


def fields_of(kind: type[ApiModel]) -> Iterator[str]:
    """The paths of all fields, including objects."""
    for name, field in kind.model_fields.items():
        wire, inner = field.alias or name, object_in(field.annotation)
        yield wire
        if inner is not None:
            yield from (f"{wire}.{below}" for below in fields_of(inner))


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
            raise OverrideError(path, f"unknown field; did you mean {_nearest(path, kind, suggested)}?")
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


def object_in(annotation: Any) -> type[ApiModel] | None:
    """The object type of a field, optional or not; None for values, lists and maps."""
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        return annotation
    if get_origin(annotation) in (list, dict):
        return None
    return next(filter(None, map(object_in, get_args(annotation))), None)


def _nearest(path: str, kind: type[ApiModel], suggested: Collection[str] | None) -> str:
    """The field with the most similar name and path."""

    def likeness(field: str) -> float:
        return _ratio(path.rpartition(".")[2], field.rpartition(".")[2]) + _ratio(path, field)

    others = [
        field
        for field in fields_of(kind)
        if not path.startswith(f"{field}.") and (suggested is None or field.split(".")[0] in suggested)
    ]
    return max(others, key=likeness)


def _ratio(left: str, right: str) -> float:
    return SequenceMatcher(None, left.replace("_", "").lower(), right.lower()).ratio()


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
