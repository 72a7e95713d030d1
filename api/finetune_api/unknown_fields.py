"""What was meant by a field that does not exist: a name of another tool, or a field of a similar name. Pure."""

from collections.abc import Collection, Iterator
from difflib import SequenceMatcher
from typing import Any, get_args, get_origin

from finetune_api.base import ApiModel
from finetune_api.other_names import NAMED, folded, remedy_for

_ALIKE = 0.62
"""Share of the characters that a field and what was written for it have in common."""


def hint(path: str, kind: type[ApiModel], root: str = "", suggested: Collection[str] | None = None) -> str:
    """What to write in place of the unknown field `path` of a `kind`, as the end of a sentence; empty if unknown.

    `root` is written before every field. Only fields below those in `suggested` are named, or all.
    """
    place, _, name = path.rpartition(".")
    if item := _item_at(place.split("."), kind):
        own = [field.alias or each for each, field in item.model_fields.items()]
        nearest = _nearest(name, own)
        return (
            f"; did you mean {root}{place}.{nearest}?"
            if nearest
            else f"; the fields here are {', '.join(own)}"
        )
    fields = [field for field in fields_of(kind) if suggested is None or field.split(".")[0] in suggested]
    remedy = remedy_for(path)
    if remedy and {name for name, _ in NAMED.findall(remedy)} <= set(fields):
        return "; " + NAMED.sub(rf"{root}\1\2", remedy)
    nearest = _nearest(path, [field for field in fields if not path.startswith(f"{field}.")])
    return f"; did you mean {root}{nearest}?" if nearest else ""


def fields_of(kind: type[ApiModel]) -> Iterator[str]:
    """The paths of all fields, including objects."""
    for name, field in kind.model_fields.items():
        wire, inner = field.alias or name, object_in(field.annotation)
        yield wire
        if inner is not None:
            yield from (f"{wire}.{below}" for below in fields_of(inner))


def object_in(annotation: Any) -> type[ApiModel] | None:
    """The object type of a field, optional or not; None for values, lists and maps."""
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        return annotation
    if get_origin(annotation) in (list, dict):
        return None
    return next(filter(None, map(object_in, get_args(annotation))), None)


def _item_at(names: list[str], kind: type[ApiModel]) -> type[ApiModel] | None:
    """The object type at a path into a list; None for other paths."""
    found: Any = kind
    for name in names:
        if name.isdigit():
            found = object_in(next(iter(get_args(found)), None))
        elif isinstance(found, type) and issubclass(found, ApiModel):
            fields = {field.alias or own: field for own, field in found.model_fields.items()}
            found = _object_or_list(fields[name].annotation) if name in fields else None
    inside = any(name.isdigit() for name in names)
    return found if inside and isinstance(found, type) and issubclass(found, ApiModel) else None


def _object_or_list(annotation: Any) -> Any:
    """Of an optional field, what it holds."""
    if get_origin(annotation) is list or object_in(annotation):
        return object_in(annotation) or annotation
    return next(filter(None, map(_object_or_list, get_args(annotation))), None)


def _nearest(path: str, fields: list[str]) -> str | None:
    """The field with the most similar name and path, if its name is similar."""
    name = path.rpartition(".")[2]
    alike = {field: _ratio(name, field.rpartition(".")[2]) for field in fields}
    same = [field for field in fields if alike[field] == 1]
    similar = same or [field for field in fields if alike[field] >= _ALIKE]
    return max(similar, key=lambda field: alike[field] + _ratio(path, field), default=None)


def _ratio(left: str, right: str) -> float:
    return SequenceMatcher(None, folded(left), folded(right)).ratio()
