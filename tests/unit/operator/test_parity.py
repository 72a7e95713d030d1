"""No field of the spec is lost on its way: other values of it make another RunConfig or other objects.

Every leaf of the spec's schema is set to all sample values that are valid for it, in jobs of every kind. In one of
the kinds at least two have to be valid, and each has to make a plan of its own.
"""

from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from builders import job, script_spec, spec
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.schema import structural
from unit.operator.worlds import planned

Json = dict[str, Any]
Place = tuple[str | int, ...]

NOT_IN_A_PLAN = {
    "suspend": "the operator acts on it",
    "retry.limit": "the operator acts on it",
    "retry.windowSeconds": "the operator acts on it",
    "startupDeadlineSeconds": "the operator acts on it",
    "preflight": "the operator acts on it",
    "activeDeadlineSeconds": "the operator acts on it",
    "ttlSecondsAfterFinished": "the operator acts on it",
}
SAMPLES: dict[str, list[Any]] = {
    "integer": [1, 2, 10, 11],
    "number": [0.05, 0.1, 0.25, 0.5],
    "boolean": [True, False],
    "quantity": ["1", "2", "3Gi", "4Gi"],
    "string": [
        "pvc://a/b.csv",
        "pvc://c/d.csv",
        "hf://a/b",
        "hf://c/d",
        "a/b",
        "c/d",
        "aa",
        "bb",
        "accuracy",
        "f1",
    ],
}
HUB = {"uri": "hf://org/base", "credentials": {"secretName": "hub"}}
TOLERATION = {"key": "gpu", "operator": "Equal", "value": "a100", "effect": "NoExecute"}
KINDS: list[Json] = [
    spec(),
    spec(objective={"regression": {}}),
    spec(objective={"tokenClassification": {}}),
    spec(objective={"causalLM": {}}),
    spec(model=HUB),
    spec(model={"uri": "pvc://a/b", "head": {"hiddenSizes": [8]}}),
    spec(model={"uri": "pvc://a/b", "freeze": {"layers": 2}}),
    spec(training={"optimizer": {"name": "SGD"}}),
    spec(training={"onNonFinite": {"action": "Rollback"}}),
    spec(training={"schedule": {"name": "Plateau"}}),
    spec(training={"schedule": {"name": "Polynomial"}}),
    spec(training={"schedule": {"name": "Cosine"}}),
    spec(training={"schedule": {"name": "WarmupStableDecay", "decay": {"ratio": 0.1}}}),
    spec(training={"schedule": {"name": "WarmupStableDecay"}}),
    spec(
        dataset={
            "train": {"uri": "pvc://a/b"},
            "validation": {"uri": "pvc://a/c"},
            "test": {"uri": "pvc://a/d"},
        }
    ),
    spec(scheduling={"tolerations": [TOLERATION]}, env=[{"name": "A", "value": "1"}]),
    spec(scheduling={"tolerations": [{"key": "gpu"}]}),
    spec(resources={"nodes": 2}),
    spec(objective={"preference": {}}),
    spec(objective={"preference": {"loss": "SimPO"}}),
    spec(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "api-key"}}}]),
    spec(gate={"metric": "accuracy", "min": 0.5}),
    spec(training={"evaluation": {"forgetting": [{"uri": "pvc://a/b"}]}}),
    spec(resources={"claims": [{"name": "gpus", "resourceClaimTemplateName": "one"}], "gpusPerNode": 0}),
    spec(gate={"metric": "loss"}),
    spec(gate={"metric": "accuracy"}),
    script_spec(),
]


def leaves(schema: Json, place: Place = ()) -> Iterator[tuple[Place, Json]]:
    """The places of the spec that hold a value; of a list of objects, those of its first."""
    if properties := schema.get("properties"):
        for name, child in properties.items():
            yield from leaves(child, (*place, name))
    elif schema.get("items", {}).get("properties"):
        yield from leaves(schema["items"], (*place, 0))
    else:
        yield place, schema


def samples(schema: Json) -> list[Any]:
    """Values of the schema's type, valid or not."""
    if "enum" in schema:
        return list(schema["enum"])
    if "x-kubernetes-int-or-string" in schema:
        return SAMPLES["quantity"]
    if schema["type"] == "array":
        values = samples(schema["items"])
        return [[value] for value in values] + [list(pair) for pair in pairwise(values)]
    if schema["type"] == "object":
        return [{"cpu": value} for value in samples(schema["additionalProperties"])]
    return SAMPLES[schema["type"]]


def with_value(kind: Json, place: Place, value: Any) -> Json:
    """The spec with a value at a place, and what has to be around it."""
    changed = at = deepcopy(kind)
    for step, following in pairwise(place):
        empty: Any = [{}] if following == 0 else {}
        at = at.setdefault(step, empty) if isinstance(step, str) else at[step]
    at[place[-1]] = value
    return changed


def plan_of(written: Json) -> str | None:
    """The plan as a text, None for a spec that is refused."""
    try:
        FineTuneJobSpec.from_json(written)
    except ValidationError:
        return None
    return str(planned(job() | {"spec": written}))


def reaches_the_plan(place: Place, schema: Json) -> bool:
    for kind in KINDS:
        plans = [made for value in samples(schema) if (made := plan_of(with_value(kind, place, value)))]
        if len(plans) > 1 and len(set(plans)) == len(plans):
            return True
    return False


LEAVES = {
    ".".join(map(str, place)): (place, schema)
    for place, schema in leaves(structural(FineTuneJobSpec))
    if place[0] not in ("search", "ensemble")  # their runs are FineTuneJobs themselves
}


@pytest.mark.parametrize("name", LEAVES)
def test_every_field_of_the_spec_reaches_the_run_or_the_list_says_why_not(name: str) -> None:
    assert reaches_the_plan(*LEAVES[name]) != (name in NOT_IN_A_PLAN)


def test_the_list_names_fields_that_exist() -> None:
    assert NOT_IN_A_PLAN.keys() <= LEAVES.keys()
