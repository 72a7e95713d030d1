"""Overrides: fields changed by their path, and refused with the place and the nearest real field."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import run_config, spec
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.overrides import OverrideError, overridden, read_assignment
from finetune_api.run import RunConfig
from finetune_api.unknown_fields import fields_of
from unit.api.schemas import crd_schema, nodes


def changed(overrides: dict[str, Any], **fields: Any) -> FineTuneJobSpec:
    return FineTuneJobSpec.from_json(overridden(spec(**fields), overrides, FineTuneJobSpec))


def test_fields_are_changed_and_their_parents_made() -> None:
    found = changed({"training.optimizer.learningRate": 1e-4, "training.seed": 2, "model.head.dropout": 0.2})
    assert found.training is not None
    assert found.model is not None
    assert found.model.head is not None
    assert (found.training.optimizer.learning_rate, found.training.seed) == (1e-4, 2)
    assert found.model.head.dropout == 0.2


def test_the_document_itself_stays_as_it_was() -> None:
    document = spec(training={"seed": 1})
    before = json.dumps(document)
    overridden(document, {"training.seed": 2}, FineTuneJobSpec)
    assert json.dumps(document) == before


def test_none_removes_a_field_so_that_another_takes_its_place() -> None:
    found = changed({"training.epochs": None, "training.maxSteps": 7}, training={"epochs": 3})
    assert found.training is not None
    assert (found.training.epochs, found.training.max_steps) == (None, 7)


def test_one_of_several_members_replaces_the_other() -> None:
    warmup = {"schedule": {"warmup": {"steps": 10}}}
    found = changed({"training.schedule.warmup.ratio": 0.2}, training=warmup)
    assert found.training is not None
    assert found.training.schedule.warmup is not None
    assert found.training.schedule.warmup.to_json() == {"ratio": 0.2}


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("training.learningRate", "training.optimizer.learningRate"),
        ("training.optimizer.learning_rate", "training.optimizer.learningRate"),
        ("trainng.seed", "training.seed"),
        ("training.optimiser.momentum", "training.optimizer.momentum"),
        ("learningRate", "training.optimizer.learningRate"),
    ],
)
def test_a_path_that_is_no_field_is_answered_with_the_nearest_one(path: str, nearest: str) -> None:
    with pytest.raises(OverrideError) as caught:
        changed({path: 1})
    assert caught.value.place == path
    assert str(caught.value) == f"{path}: unknown field; did you mean {nearest}?"


@pytest.mark.parametrize("path", ["training.seed.value", "training.optimizer.betas.0"])
def test_a_path_into_a_value_says_to_set_the_whole(path: str) -> None:
    whole = path.rpartition(".")[0]
    with pytest.raises(OverrideError, match=f"set {whole} itself"):
        changed({path: 1})


@pytest.mark.parametrize(
    ("path", "value", "place", "says"),
    [
        ("training.optimizer.learningRate", 5, "training.optimizer.learningRate", "less than or equal to 1"),
        ("training.optimizer.learningRate", "fast", "training.optimizer.learningRate", "valid number"),
        ("training.seed", "2", "training.seed", "valid integer"),
        ("training.seed", 1.5, "training.seed", "integer"),
        ("training.schedule.name", "Linaer", "training.schedule.name", "'Constant', 'Linear'"),
        ("training.optimizer.betas", [0.9], "training.optimizer.betas", "at least 2 items"),
        ("training.microBatchSize", 64, "training", "must not be larger than batchSize"),
        ("model", None, "model", "required"),
    ],
)
def test_a_value_that_the_field_refuses_is_answered_with_its_place(
    path: str, value: Any, place: str, says: str
) -> None:
    document = run_config().to_json() | {"training": {"batchSize": 32}}
    with pytest.raises(OverrideError, match=says) as caught:
        overridden(document, {path: value}, RunConfig)
    assert caught.value.place == place


def test_every_field_of_the_spec_can_be_named() -> None:
    """By the schema that the API server has, but for what lies in lists and maps."""
    there = {place for place, _ in nodes(crd_schema("spec")) if place and not {"[]", "*"} & set(place)}
    assert set(fields_of(FineTuneJobSpec)) == {".".join(place) for place in there}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("1e-4", 1e-4),
        ("5E-5", 5e-5),
        (".5", 0.5),
        ("1.", 1.0),
        ("+3", 3),
        ("007", 7),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("1_000", "1_000"),
        ("Cosine", "Cosine"),
        ('"2"', "2"),
        ('["neg", "pos"]', ["neg", "pos"]),
        ("NaN", "NaN"),
        ("a=b", "a=b"),
    ],
)
def test_a_value_is_read_as_yaml_1_2_reads_it(text: str, value: Any) -> None:
    path, found = read_assignment(f"training.x={text}")
    assert (path, found, type(found)) == ("training.x", value, type(value))


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()))
def test_what_json_writes_is_read_as_it_was(value: Any) -> None:
    assert read_assignment(f"a={json.dumps(value)}") == ("a", value)


@pytest.mark.parametrize("text", ["training.seed", "=2", ""])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write PATH=VALUE"):
        read_assignment(text)


def test_an_override_does_not_change_the_value_that_was_given() -> None:
    adapter: dict[str, Any] = {"lora": {}}
    overridden(spec(), {"model.adapter": adapter, "model.adapter.lora.rank": 4}, FineTuneJobSpec)
    assert adapter == {"lora": {}}
