"""Structural schemas as values: every node with its place, and strategies that make objects of a schema."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from hypothesis import strategies as st

from finetune_api.base import messages_of
from finetune_api.crd import crd

Schema = dict[str, Any]
Place = tuple[str, ...]

URIS = [
    "pvc://demo/a",
    "pvc://demo/models/mini lm",
    "configMap://tiny/rows.csv",
    "pvc://demo",
    "hf://org/name",
]


@cache
def crd_schema(part: str | None = None) -> Schema:
    """The schema of the object, or of its `spec` or `status`."""
    (version,) = crd()["spec"]["versions"]
    whole: Schema = version["schema"]["openAPIV3Schema"]
    return whole["properties"][part] if part else whole


def nodes(schema: Schema, place: Place = ()) -> Iterator[tuple[Place, Schema]]:
    """Every node below and with `schema`; `[]` stands for the items of a list, `*` for the values of a map."""
    yield place, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, (*place, name))
    if "items" in schema:
        yield from nodes(schema["items"], (*place, "[]"))
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], (*place, "*"))


def leaf_places(value: Any, place: Place = ()) -> set[Place]:
    """The places at which `value` says something, in the notation of `nodes`, with all places above."""
    if isinstance(value, dict):
        return {place}.union(*(leaf_places(child, (*place, name)) for name, child in value.items()))
    if isinstance(value, list):
        return {place}.union(*(leaf_places(child, (*place, "[]")) for child in value))
    return {place}


def messages(schema: Schema) -> set[str]:
    """The messages of all rules in `schema`."""
    return {message for _, node in nodes(schema) for message in messages_in(node)}


def messages_in(node: Schema) -> list[str]:
    """The messages of the rules on this node itself."""
    return [text for entry in node.get("x-kubernetes-validations", []) for text in messages_of(entry)]


def values(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that satisfy `schema`, but for its rules."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return st.integers(0, 10**9) | st.from_regex(schema["pattern"], fullmatch=True)
    if "x-kubernetes-preserve-unknown-fields" in schema:
        return st.sampled_from([1, 0.5, "text", True, [1], {"name": "text"}])
    return _BY_TYPE[schema["type"]](schema)


def _objects(schema: Schema) -> st.SearchStrategy[Any]:
    if "additionalProperties" in schema:
        keys = st.text("abc/.-", min_size=1, max_size=8)
        size = min(4, schema.get("maxProperties", 4))
        return st.dictionaries(keys, values(schema["additionalProperties"]), max_size=size)
    members = {name: values(child) for name, child in schema.get("properties", {}).items()}
    if schema.get("maxProperties") == 1:
        return st.one_of([st.fixed_dictionaries({name: member}) for name, member in members.items()])
    required = {name: members.pop(name) for name in schema.get("required", [])}
    return st.fixed_dictionaries(required, optional=members)


def _lists(schema: Schema) -> st.SearchStrategy[Any]:
    low, high = schema.get("minItems", 0), min(schema.get("maxItems", 4), schema.get("minItems", 0) + 4)
    return st.lists(values(schema["items"]), min_size=low, max_size=high)


def _strings(schema: Schema) -> st.SearchStrategy[Any]:
    if any("pvc://" in message for message in messages_in(schema)):
        return st.sampled_from(URIS)
    if schema.get("format") == "date-time":
        return st.just("2026-01-01T00:00:00Z")
    if "pattern" in schema:
        longest = schema.get("maxLength", 100)
        return st.from_regex(schema["pattern"], fullmatch=True).filter(lambda text: len(text) <= longest)
    characters = st.characters(exclude_categories=["Cs"])
    return st.text(characters, min_size=schema.get("minLength", 0), max_size=schema.get("maxLength", 100))


def _integers(schema: Schema) -> st.SearchStrategy[Any]:
    return st.integers(schema.get("minimum", 0), schema.get("maximum", 2**53 - 1))


def _numbers(schema: Schema) -> st.SearchStrategy[Any]:
    return st.floats(
        schema.get("minimum"),
        schema.get("maximum"),
        exclude_min=schema.get("exclusiveMinimum", False),
        exclude_max=schema.get("exclusiveMaximum", False),
        allow_nan=False,
        allow_infinity=False,
    )


_BY_TYPE = {
    "object": _objects,
    "array": _lists,
    "string": _strings,
    "integer": _integers,
    "number": _numbers,
    "boolean": lambda _: st.booleans(),
}
