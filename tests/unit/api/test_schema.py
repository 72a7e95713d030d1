"""The lowering of pydantic models to structural schemas: what it makes, and what it refuses."""

from typing import Annotated

import pytest
from pydantic import Field

from finetune_api.base import ApiModel, IntOrString, OneOf, Rule, Unique, messages_of, validations
from finetune_api.schema import structural


class Leaf(ApiModel):
    size: int = 1


class Tree(ApiModel):
    below: "Tree | None" = None


class Choice(OneOf):
    ratio: float | None = None
    steps: int | None = None


def property_of(annotation: object, default: object = ...) -> dict[str, object]:
    model = type("Holder", (ApiModel,), {"__annotations__": {"held": annotation}, "held": default})
    return structural(model)["properties"]["held"]


def test_an_optional_field_has_the_type_of_its_value_and_no_default() -> None:
    assert property_of(Annotated[int, Field(ge=1)] | None, None) == {"type": "integer", "minimum": 1}


def test_an_exclusive_bound_is_a_bound_and_a_flag() -> None:
    assert property_of(Annotated[float, Field(gt=0, lt=1)]) == {
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 1,
        "exclusiveMaximum": True,
    }


def test_the_default_of_an_object_is_empty_so_that_the_server_fills_in_the_members() -> None:
    schema = property_of(Leaf, Leaf(size=7))
    assert schema["default"] == {}
    assert schema["properties"] == {"size": {"type": "integer", "default": 1}}


def test_names_are_camel_case() -> None:
    class Named(ApiModel):
        micro_batch_size: int = 1

    assert list(structural(Named)["properties"]) == ["microBatchSize"]


def test_a_field_description_stands_before_that_of_its_type() -> None:
    class Described(ApiModel):
        leaf: Leaf
        """What this leaf is for."""

    assert structural(Described)["properties"]["leaf"]["description"] == "What this leaf is for."


def test_a_description_tells_default_and_bounds_as_kubectl_explain_shows_nothing_else() -> None:
    class Told(ApiModel):
        rate: Annotated[float, Field(gt=0, le=1)] = 5e-5
        """Of learning."""
        size: Annotated[int, Field(ge=1, le=9)] | None = None
        """Of a batch."""
        name: str = "AdamW"
        """Of it."""
        fused: bool = False
        """In one."""
        share: Annotated[float, Field(lt=1)] = 0.0
        """Of all."""

    told = {name: field["description"] for name, field in structural(Told)["properties"].items()}
    assert told == {
        "rate": "Of learning. Default: 5e-05. More than 0, at most 1.",
        "size": "Of a batch. From 1 to 9.",
        "name": "Of it. Default: AdamW.",
        "fused": "In one. Default: false.",
        "share": "Of all. Default: 0. Less than 1.",
    }


def test_a_rule_becomes_a_validation() -> None:
    class Ruled(ApiModel):
        rules = (Rule("self.a <= self.b", "a must not exceed b", field_path=".a"),)
        a: int
        b: int

    assert structural(Ruled)["x-kubernetes-validations"] == [
        {"rule": "self.a <= self.b", "message": "a must not exceed b", "fieldPath": ".a"}
    ]


def test_rules_of_a_section_that_need_the_same_field_share_a_validation() -> None:
    rules = [
        Rule("a < 9", "a is 9 or more", field_path=".a.b", needs=("a",)),
        Rule("self.z > 0", "z is zero"),
        Rule("a < c", 'a is not below "c"', field_path=".a.d", needs=("a", "c")),
    ]
    shared, alone = validations(rules)
    assert shared == {
        "rule": "self.?a.optMap(a, (a < 9) && (self.?c.optMap(c, a < c).orValue(true))).orValue(true)",
        "messageExpression": "(self.?a.optMap(a, a < 9).orValue(true) ? '' : \"a is 9 or more. \") + (self.?a.optMap("
        'a, self.?c.optMap(c, a < c).orValue(true)).orValue(true) ? \'\' : "a is not below \\"c\\". ")',
        "fieldPath": ".a",
    }
    assert messages_of(shared) == ["a is 9 or more", 'a is not below "c"']
    assert alone == {"rule": "self.z > 0", "message": "z is zero"}


def test_rules_of_other_sections_do_not() -> None:
    rules = [Rule("a < 9", "large", field_path=path, needs=("a",)) for path in (".a", ".c")]
    assert [each["fieldPath"] for each in validations(rules)] == [".a", ".c"]


def test_one_of_is_an_object_with_exactly_one_property() -> None:
    schema = structural(Choice)
    assert (schema["minProperties"], schema["maxProperties"]) == (1, 1)


def test_a_list_without_repeats_is_a_set_or_a_map() -> None:
    assert property_of(Annotated[list[str], Unique()])["x-kubernetes-list-type"] == "set"
    by_size = property_of(Annotated[list[Leaf], Unique("size")])
    assert (by_size["x-kubernetes-list-type"], by_size["x-kubernetes-list-map-keys"]) == ("map", ["size"])


def test_an_integer_or_string_has_no_type_and_bounds_for_both() -> None:
    schema = property_of(Annotated[str, IntOrString("^[0-9]+$")])
    assert schema == {
        "x-kubernetes-int-or-string": True,
        "minimum": 0,
        "pattern": "^[0-9]+$",
        "maxLength": 32,
    }


@pytest.mark.parametrize("annotation", [int | str, list[int | str], int | Leaf, tuple[int, str]])
def test_what_a_structural_schema_cannot_say_is_refused(annotation: object) -> None:
    with pytest.raises(TypeError, match="no structural"):
        property_of(annotation)


def test_a_model_that_contains_itself_is_refused() -> None:
    with pytest.raises(TypeError, match="Tree contains itself"):
        structural(Tree)
