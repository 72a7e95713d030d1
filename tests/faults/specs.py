"""Random specs from the schema of the CRD: valid ones from the tests' cases, with a few fields changed."""

import copy
import random
from collections.abc import Iterator
from typing import Any

from finetune_api.crd import crd
from unit.api.cases import ACCEPTED

Json = dict[str, Any]
Place = tuple[str | int, ...]

_TEXTS = [
    "",
    " ",
    "x",
    "0",
    "null",
    "-1",
    "pvc://demo/x",
    "pvc://other/models/m",
    "hf://org/name",
    "a" * 300,
    "é\u2028✓",
    "../x",
]
_LARGE = [-(2**31), -1, 0, 1, 2, 3, 7, 1000, 2**31 - 1, 2**53]
_SMALL = {
    "maxTrials": 3,
    "parallelism": 3,
    "members": 3,
    "repeats": 2,
    "nodes": 2,
    "ttlSecondsAfterFinished": 86_400,
}
"""So that a random spec does not ask for thousands of runs."""


def schema_of_spec() -> Json:
    """The schema of `spec`."""
    (version,) = [one for one in crd()["spec"]["versions"] if one["name"] == "v1alpha1"]
    found: Json = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def specs(seed: int, count: int) -> Iterator[Json]:
    """Specs of which some are valid."""
    chance, schema = random.Random(seed), schema_of_spec()
    bases = [case.spec for case in ACCEPTED]
    for number in range(count):
        spec = copy.deepcopy(bases[number % len(bases)])
        for _ in range(chance.choice([0, 1, 1, 2, 3])):
            _change(spec, schema, chance)
        _bound(spec)
        spec.setdefault("resources", {}).setdefault("gpusPerNode", 0)
        yield spec


def _change(spec: Json, schema: Json, chance: random.Random) -> None:
    """Give one field of the schema another value, add it, or remove it."""
    place, at = spec, schema
    while True:
        name = chance.choice(sorted(at["properties"]))
        below = at["properties"][name]
        if "properties" in below and isinstance(place.get(name, {}), dict) and chance.random() < 0.8:
            place = place.setdefault(name, {})
            at = below
            continue
        if name in place and chance.random() < 0.2:
            del place[name]
        else:
            place[name] = value_of(below, chance)
        return


def value_of(schema: Json, chance: random.Random, depth: int = 0) -> Any:
    """A value that the schema allows in type, and often in bounds."""
    if "enum" in schema:
        return chance.choice([*schema["enum"], *(["Nonsense"] if chance.random() < 0.1 else [])])
    if schema.get("x-kubernetes-int-or-string"):
        return chance.choice([1, 4, "1", "500m", "2Gi", "-1", "many"])
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        required = schema.get("required", [])
        names = [name for name in schema["properties"] if name in required or chance.random() < 0.3]
        return {name: value_of(schema["properties"][name], chance, depth + 1) for name in names}
    if kind == "object":
        of = schema.get("additionalProperties")
        of = of if isinstance(of, dict) else {"type": "string"}
        return {
            chance.choice(["cpu", "memory", "a/b", "x"]): value_of(of, chance, depth + 1)
            for _ in range(chance.randint(0, 2))
        }
    if kind == "array":
        return [value_of(schema["items"], chance, depth + 1) for _ in range(chance.choice([0, 1, 1, 2]))]
    if kind == "integer":
        low, high = schema.get("minimum", 0), min(schema.get("maximum", 100), 100)
        return chance.choice([low, high, max(low, high // 2), chance.choice(_LARGE)])
    if kind == "number":
        low, high = schema.get("minimum", 0.0), schema.get("maximum", 1.0)
        return chance.choice([low, high, (low + high) / 2, 1e-5, -1.5, 1e300])
    if kind == "boolean":
        return chance.random() < 0.5
    return chance.choice([schema.get("default") or "x", *_TEXTS])


def _bound(value: Any) -> None:
    if isinstance(value, list):
        for one in value:
            _bound(one)
    if isinstance(value, dict):
        for name, one in value.items():
            if name in _SMALL and isinstance(one, int) and not isinstance(one, bool):
                value[name] = min(one, _SMALL[name])
            else:
                _bound(one)
