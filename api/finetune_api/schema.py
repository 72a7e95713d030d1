"""Converts a pydantic model to a Kubernetes structural schema. Pure: model class in, dict out."""

import json
from typing import Any

from pydantic import BaseModel

_KEEP = {
    "type", "format", "description", "default", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern",
    "minItems", "maxItems", "minProperties", "maxProperties", "required", "oneOf", "nullable",
}  # fmt: skip
NOT_STORED = "x-default-not-stored"
"""In a field's json_schema_extra: the API server does not fill in its default. An operator that does not know the field
yet, as after a rollback, can then read the jobs that do not set it."""


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """The structural schema of `model`.

    Raises TypeError for types that a structural schema cannot express: unions, recursive models, tuples.
    """
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _with_safe_defaults(_lower(schema, schema.get("$defs", {}), ()), filled=True)


def _with_safe_defaults(node: dict[str, Any], *, filled: bool) -> dict[str, Any]:
    """The same schema with defaults only in objects that server-side apply cannot empty (`filled`).

    A user may write `{}` for an object without a required member. kubectl apply then owns the defaults that the API
    server fills in, and a later server-side apply of the same file removes them; an object that loses its last member
    becomes null (kubernetes#135841), which only a default of the object itself replaces. The defaults that are
    omitted here come from the parsed types.
    """
    if "properties" not in node:
        return node
    members = {}
    for name, child in node["properties"].items():
        stored = filled and NOT_STORED not in child
        kept = {
            key: value for key, value in child.items() if key != NOT_STORED and (stored or key != "default")
        }
        members[name] = _with_safe_defaults(kept, filled="default" in kept or "required" in kept)
    return node | {"properties": members}


def _lower(node: dict[str, Any], definitions: dict[str, Any], above: tuple[str, ...]) -> dict[str, Any]:
    node = dict(node)
    if "$ref" in node:
        name = node.pop("$ref").rsplit("/", 1)[1]
        if name in above:
            raise TypeError(f"{name} contains itself; a structural schema cannot recurse")
        node, above = {**definitions[name], **node}, (*above, name)
    if "anyOf" in node:
        node = _optional(node)
        return _lower(node, definitions, above)
    if "prefixItems" in node or "patternProperties" in node:
        raise TypeError(f"no structural form for {sorted(node)}")
    out = {
        key: value
        for key, value in node.items()
        if key in {*_KEEP, NOT_STORED} or key.startswith("x-kubernetes-")
    }
    if "const" in node:
        out["enum"] = [node["const"]]
    if out.get("default", "") is None:
        del out["default"]
    elif isinstance(out.get("default"), dict):
        out["default"] = {}  # the API server fills in the members' own defaults
    out |= _exclusive_bounds(node) | _children(node, definitions, above)
    if out.get("description") and (sentences := [*_default_sentence(out), *_bounds_sentence(out)]):
        out["description"] = " ".join([out["description"], *sentences])
    return out


def _optional(node: dict[str, Any]) -> dict[str, Any]:
    members = [member for member in node["anyOf"] if member.get("type") != "null"]
    if len(members) != 1:
        raise TypeError(f"a union has no structural schema: {members}")
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    return {**members[0], **rest}


def _exclusive_bounds(node: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI 3.0 spells an exclusive bound as a number and a flag."""
    out: dict[str, Any] = {}
    for bound, number in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in node:
            out |= {number: node[bound], bound: True}
    return out


def _default_sentence(node: dict[str, Any]) -> list[str]:
    """The default as a sentence, because kubectl explain shows only the description."""
    default = node.get("default", {})
    if default in ({}, ""):
        return []
    if isinstance(default, float):
        return [f"Default: {default:g}."]
    return [f"Default: {default if isinstance(default, str) else json.dumps(default)}."]


def _bounds_sentence(node: dict[str, Any]) -> list[str]:
    lowest, highest = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if lowest is not None and highest is not None and not (above or below):
        return [f"From {lowest} to {highest}."]
    parts = [
        *([f"{'more than' if above else 'at least'} {lowest}"] if lowest is not None else []),
        *([f"{'less than' if below else 'at most'} {highest}"] if highest is not None else []),
    ]
    return [f"{', '.join(parts)}.".capitalize()] if parts else []


def _children(node: dict[str, Any], definitions: dict[str, Any], above: tuple[str, ...]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if node.get("properties"):  # the server leaves out an empty one
        children = node["properties"].items()
        out["properties"] = {name: _lower(child, definitions, above) for name, child in children}
    if "items" in node:
        out["items"] = _lower(node["items"], definitions, above)
    if isinstance(node.get("additionalProperties"), dict):
        out["additionalProperties"] = _lower(node["additionalProperties"], definitions, above)
    return out
