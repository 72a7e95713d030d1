"""The conventions of the CustomResourceDefinition: each keeps out a fault that a cluster shows only later."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.base import ApiModel
from finetune_api.crd import crd
from finetune_api.finetunejob import IMMUTABLE, WHILE_SUSPENDED, FineTuneJobSpec
from finetune_api.unknown_fields import object_in
from unit.api.schemas import Place, crd_schema, messages, nodes

ROOT = Path(__file__).resolve().parents[3]
SPEC, STATUS = list(nodes(crd_schema("spec"), ("spec",))), list(nodes(crd_schema("status"), ("status",)))
ALL = SPEC + STATUS

DATA_FORMATS = {"jsonl", "json", "csv", "parquet", "arrow", "text"}
ADMINISTRATORS = {"resources", "scheduling", "image", "output"}


def places(offenders: list[Place]) -> list[str]:
    return [".".join(place) for place in offenders]


def test_every_field_has_a_description() -> None:
    named = [(place, node) for place, node in ALL if place[-1] not in ("[]", "*")]
    assert len(named) > 100
    assert (
        places([place for place, node in named if not node.get("description", "").endswith((".", ")"))]) == []
    )


def test_every_string_is_bounded() -> None:
    strings = [(place, node) for place, node in ALL if node.get("type") == "string"]
    bounded = {"maxLength", "enum"}
    unbounded = [
        place for place, node in strings if not bounded & node.keys() and node.get("format") != "date-time"
    ]
    assert strings
    assert places(unbounded) == []


def test_every_list_is_bounded() -> None:
    lists = [(place, node) for place, node in ALL if node.get("type") == "array"]
    assert lists
    assert places([place for place, node in lists if "maxItems" not in node]) == []


def test_every_map_is_bounded() -> None:
    maps = [(place, node) for place, node in ALL if "additionalProperties" in node]
    assert maps
    assert places([place for place, node in maps if "maxProperties" not in node]) == []


def test_every_number_of_the_spec_is_bounded() -> None:
    numbers = [(place, node) for place, node in SPEC if node.get("type") in ("integer", "number")]
    assert numbers
    assert places([place for place, node in numbers if not {"minimum", "maximum"} <= node.keys()]) == []


def test_every_node_has_a_type() -> None:
    untyped = [
        place for place, node in ALL if "type" not in node and "x-kubernetes-int-or-string" not in node
    ]
    values_of_any_field = ["choice.[]", "when.values.[]"]
    assert places(untyped) == [f"spec.search.parameters.[].{place}" for place in values_of_any_field]


def test_no_list_item_has_a_default_which_would_stay_out_of_sync_under_argo_cd() -> None:
    assert places([place for place, node in ALL if "[]" in place and "default" in node]) == []


def test_no_default_of_the_spec_is_an_empty_list() -> None:
    assert places([place for place, node in SPEC if node.get("default") == []]) == []


def test_no_member_of_a_choice_has_a_default() -> None:
    choices = {place for place, node in SPEC if node.get("maxProperties") == 1 and "properties" in node}
    assert len(choices) >= 5
    assert places([place for place, node in SPEC if place[:-1] in choices and "default" in node]) == []


def test_no_field_whose_presence_a_rule_of_its_object_asks_for_has_a_default() -> None:
    asked = [
        (*place, name)
        for place, node in SPEC
        for rule in node.get("x-kubernetes-validations", [])
        if "oldSelf" not in rule["rule"]
        for name in re.findall(r"(?:has\(self\.|self\.\?)(\w+)", rule["rule"])
    ]
    defaulted = {place for place, node in SPEC if "default" in node}
    assert ("spec", "training", "microBatchSize") in asked
    assert ("spec", "training", "epochs") in asked
    assert places([place for place in asked if place in defaulted]) == []


def test_an_object_that_may_be_written_empty_has_members_with_defaults_only_if_it_has_one_itself() -> None:
    """Else `kubectl apply --server-side` after `kubectl apply` makes null of it: kubernetes#135841."""
    emptied = [
        (*place, name)
        for place, node in SPEC[1:]
        if "required" not in node and "default" not in node
        for name, member in node.get("properties", {}).items()
        if "default" in member
    ]
    assert places(emptied) == []
    assert ("spec", "dataset", "preprocessing", "maxLength") in {p for p, node in SPEC if "default" in node}


def defaults_of(model: type[ApiModel], place: Place = ("spec",)) -> Iterator[tuple[Place, Any]]:
    """The place and default of every field that is a value and has one."""
    for name, field in model.model_fields.items():
        here, inner = (*place, field.alias or name), object_in(field.annotation)
        if inner is not None:
            yield from defaults_of(inner, here)
        elif not field.is_required() and field.default is not None:
            yield here, field.default


def test_kubectl_explain_shows_every_default_even_if_the_server_does_not_fill_it_in() -> None:
    described = {place: node["description"] for place, node in SPEC if "description" in node}
    defaults = dict(defaults_of(FineTuneJobSpec))
    assert len(defaults) > 50
    untold = [place for place in defaults if "Default: " not in described[place]]
    assert places(untold) == []


def _asks(field: str) -> tuple[str, ...]:
    return f"has(self.{field})", f"has(oldSelf.{field})", f"self.?{field}.optMap("


def test_a_rule_asks_whether_a_field_is_there_before_it_reads_it() -> None:
    absent = [
        (*place, name)
        for place, node in SPEC
        for name, member in node.get("properties", {}).items()
        if name not in node.get("required", []) and "default" not in member
    ]
    rules = {place: node.get("x-kubernetes-validations", []) for place, node in SPEC}
    unasked = [
        place
        for place in absent
        for rule in rules[place[:-1]]
        if re.search(rf"\bself\.{place[-1]}\b", rule["rule"])
        and not any(asks in rule["rule"] for asks in _asks(place[-1]))
    ]
    assert places(unasked) == []


def test_what_an_administrator_may_default_has_no_default_here() -> None:
    assert crd_schema("spec")["properties"].keys() >= ADMINISTRATORS
    ours = [place for place, node in SPEC if place[1:2] and place[1] in ADMINISTRATORS and "default" in node]
    assert places(ours) == []


def test_the_default_of_an_object_is_empty() -> None:
    objects = [(place, node["default"]) for place, node in SPEC if isinstance(node.get("default"), dict)]
    assert objects
    assert places([place for place, default in objects if default]) == []


def test_enum_values_are_camel_case() -> None:
    enums = [(place, set(node["enum"])) for place, node in ALL if "enum" in node]
    camel = re.compile(r"[A-Z][A-Za-z0-9]*")
    odd = [
        place
        for place, members in enums
        if not all(map(camel.fullmatch, members)) and members != DATA_FORMATS
    ]
    assert len(enums) > 5
    assert places(odd) == []


def test_a_rule_names_the_field_it_is_about_and_only_fields_that_are_there() -> None:
    fields = {place for place, _ in ALL}
    for place, node in ALL:
        for rule in node.get("x-kubernetes-validations", []):
            if path := rule.get("fieldPath"):
                assert (*place, *path.removeprefix(".").split(".")) in fields


def test_a_rule_says_what_to_write_in_one_line() -> None:
    found = messages(crd_schema())
    assert len(found) > 100
    assert [message for message in found if "\n" in message or len(message) > 250] == []


def test_conditions_are_a_map_by_type() -> None:
    conditions = crd_schema("status")["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_environment_variables_are_a_map_by_name() -> None:
    env = crd_schema("spec")["properties"]["env"]
    assert (env["x-kubernetes-list-type"], env["x-kubernetes-list-map-keys"]) == ("map", ["name"])


def test_a_newborn_status_has_the_observed_generation_that_kstatus_reads_as_unfinished() -> None:
    assert crd_schema("status")["default"] == {"observedGeneration": -1}


def test_nothing_else_of_the_status_is_defaulted() -> None:
    assert places([place for place, node in STATUS if "default" in node]) == ["status"]


def test_every_field_of_the_spec_is_either_immutable_or_meant_to_change() -> None:
    mutable = {"suspend", "active_deadline_seconds", "startup_deadline_seconds", "ttl_seconds_after_finished"}
    mutable |= {"search", "ensemble"}  # of which only budgets and parallelism can be changed
    assert set(IMMUTABLE) | set(WHILE_SUSPENDED) | mutable == set(FineTuneJobSpec.model_fields)


def test_the_names_are_those_users_type() -> None:
    names = crd()["spec"]["names"]
    assert names["plural"] == "finetunejobs"
    assert names["shortNames"] == ["ftj"]
    assert names["categories"] == ["finetune"]


def columns(priority: int) -> list[str]:
    (version,) = crd()["spec"]["versions"]
    return [
        one["name"].upper()
        for one in version["additionalPrinterColumns"]
        if one.get("priority", 0) == priority
    ]


def test_the_columns_are_those_of_the_design() -> None:
    assert columns(0) == ["PHASE", "PROGRESS", "EPOCH", "LOSS", "BEST", "ETA", "GPUS", "AGE"]
    assert columns(1) == ["MODEL", "QUEUE", "ATTEMPT", "OUTPUT", "MESSAGE"]


def test_every_column_and_selectable_field_is_a_field() -> None:
    (version,) = crd()["spec"]["versions"]
    paths = [one["jsonPath"] for one in version["additionalPrinterColumns"] + version["selectableFields"]]
    fields = {"." + ".".join(place) for place, _ in ALL} | {".metadata.creationTimestamp"}
    assert set(paths) <= fields


GENERATED = {
    "crds/finetunejobs.finetune.dev.yaml": crd(),
    "charts/finetune-operator/files/crd-spec.yaml": {"spec": crd()["spec"]},
}


@pytest.mark.parametrize("file", GENERATED)
def test_the_file_is_what_the_types_say(file: str) -> None:
    assert yaml.safe_load((ROOT / file).read_text()) == GENERATED[file], "run `make generate`"
