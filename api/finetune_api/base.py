"""Base of every API type: camelCase on the wire, unknown fields refused, values frozen.

A cross-field rule is written once, as a `Rule` with a CEL form (checked by the API server at `kubectl apply`) and a
Python form (checked by the operator, the trainer and the CLI). A test runs both on the same cases.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationInfo,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

AS_STORED = "as stored"
"""Context of a validation that reads what the API server has stored, perhaps before a rule came."""


@dataclass(frozen=True)
class Rule:
    """One validation rule. `holds` is absent for rules that compare with the old object, which only the API server has."""

    cel: str
    """The rule. Each field in `needs` is also a variable of that name. Where the API server must bound the size of a value,
    as for all(), size() and ==, it is read from `self`."""
    message: str
    holds: Callable[[Any], bool] | None = None
    field_path: str | None = None
    needs: tuple[str, ...] = ()
    """Optional fields of the object; the rule is checked only if all of them are set. The rarest comes first."""

    @property
    def section(self) -> str:
        """The first field in `field_path`."""
        return (self.field_path or "").removeprefix(".").partition(".")[0]


def validations(rules: Sequence[Rule]) -> list[dict[str, str]]:
    """The entries of `x-kubernetes-validations`.

    Rules of a section that first need the same field share an entry, which looks up that field once: the API server checks
    every entry at each write, also of the status, and for one look-up it copies the schemas of all fields of the object.
    """
    groups: dict[Any, list[Rule]] = {}
    for index, rule in enumerate(rules):
        groups.setdefault((rule.needs[0], rule.section) if rule.needs else index, []).append(rule)
    return [_validation(group) for group in groups.values()]


def messages_of(validation: dict[str, str]) -> list[str]:
    """The messages of an entry's rules. They are its only strings in double quotes."""
    if "message" in validation:
        return [validation["message"]]
    quoted = re.findall(r'"(?:[^"\\]|\\.)*"', validation["messageExpression"])
    return [json.loads(text).removesuffix(". ") for text in quoted]


def _validation(group: list[Rule]) -> dict[str, str]:
    entry = {"rule": _all_of(group)}
    if len(group) == 1:
        entry["message"] = group[0].message
    else:
        texts = [f"({_all_of([rule])} ? '' : {json.dumps(rule.message + '. ')})" for rule in group]
        entry["messageExpression"] = " + ".join(texts)
    if path := _common_path([rule.field_path or "" for rule in group]):
        entry["fieldPath"] = path
    return entry


def _all_of(rules: list[Rule], depth: int = 0) -> str:
    """CEL of all rules, each checked only with the fields that it needs."""
    parts = [rule.cel for rule in rules if len(rule.needs) == depth]
    for field in dict.fromkeys(rule.needs[depth] for rule in rules if len(rule.needs) > depth):
        nested = [rule for rule in rules if rule.needs[depth : depth + 1] == (field,)]
        parts.append(f"self.?{field}.optMap({field}, {_all_of(nested, depth + 1)}).orValue(true)")
    return parts[0] if len(parts) == 1 else " && ".join(f"({part})" for part in parts)


def _common_path(paths: list[str]) -> str:
    """The field that all paths are in."""
    parts = zip(*(path.split(".") for path in paths), strict=False)
    return ".".join(each[0] for each in takewhile(lambda each: len(set(each)) == 1, parts))


def immutable(parent: str, field: str) -> Rule:
    """The field of `parent` cannot be changed, added or removed after creation."""
    return Rule(
        f"has(self.{field}) ? has(oldSelf.{field}) && self.{field} == oldSelf.{field} : !has(oldSelf.{field})",
        f"{parent}.{field} cannot be changed after creation; create a new FineTuneJob under another name",
    )


class ApiModel(BaseModel):
    """A frozen object of the API, with its rules."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        ser_json_inf_nan="null",
    )
    rules: ClassVar[tuple[Rule, ...]] = ()
    stored_may_break: ClassVar[bool] = False
    """Whether an object that was stored before a rule of this type is read all the same. Who reads it as stored checks the
    rules where they count: a run that began before them goes on to its end."""

    @model_validator(mode="after")
    def _rules_hold(self, info: ValidationInfo) -> Self:
        if self.stored_may_break and info.context == AS_STORED:
            return self
        for rule in self.rules:
            if rule.holds is not None and not rule.holds(self):
                raise ValueError(rule.message)
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        json_schema = handler.resolve_ref_schema(handler(schema))
        if cls.rules:
            json_schema["x-kubernetes-validations"] = validations(cls.rules)
        return json_schema

    @classmethod
    def from_json(cls, wire: dict[str, Any], *, context: str | None = None) -> Self:
        """Parse the wire form as the API server does: camelCase names only, no quoted numbers, null means absent.

        `context` may be AS_STORED. Raises pydantic.ValidationError.
        """
        text = json.dumps(_without_nulls(wire), default=str)
        return cls.model_validate_json(text, strict=True, by_alias=True, by_name=False, context=context)

    def to_json(self) -> dict[str, Any]:
        """The wire form: camelCase, without absent fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(child) for key, child in value.items() if child is not None}
    return [_without_nulls(child) for child in value] if isinstance(value, list) else value


class OneOf(ApiModel):
    """An object of which exactly one member is set, like a Pod's volume source."""

    @property
    def chosen(self) -> list[str]:
        """The names of the members that are set; a valid object has exactly one."""
        return [name for name in type(self).model_fields if getattr(self, name) is not None]

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.chosen) != 1:
            names = ", ".join(field.alias or name for name, field in type(self).model_fields.items())
            raise ValueError(f"set exactly one of {names}")
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        json_schema = super().__get_pydantic_json_schema__(schema, handler)
        return json_schema | {"minProperties": 1, "maxProperties": 1}


@dataclass(frozen=True)
class TextRule:
    """A rule on one string, for `Annotated[str, TextRule(...)]`."""

    rule: Rule

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: str) -> str:
            if self.rule.holds is not None and not self.rule.holds(value):
                raise ValueError(self.rule.message)
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(schema) | {"x-kubernetes-validations": validations([self.rule])}


@dataclass(frozen=True)
class Unique:
    """Marks a list without duplicates: a set, or with `key` a map, which server-side apply merges item by item."""

    key: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(items: list[Any]) -> list[Any]:
            keys = [getattr(item, self.key) if self.key else item for item in items]
            repeated = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
            if repeated is not None:
                raise ValueError(f"Duplicate value: {repeated}")
            return items

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        keys = {"x-kubernetes-list-map-keys": [self.key]} if self.key else {}
        return handler(schema) | {"x-kubernetes-list-type": "map" if self.key else "set"} | keys


@dataclass(frozen=True)
class IntOrString:
    """Marks a string field that may also be written as an integer (`cpu: 4`, `maxInvalidRows: 10`)."""

    pattern: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def to_text(value: Any) -> Any:
            if isinstance(value, float):
                problem = f'must be an integer or a string: write "{value}" in quotes'
                raise ValueError(problem)
            return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

        text = core_schema.str_schema(pattern=self.pattern, max_length=32)
        return core_schema.no_info_before_validator_function(to_text, text)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        # the pattern applies to strings only; a number is bounded by the minimum
        return {
            "x-kubernetes-int-or-string": True,
            "minimum": 0,
            "pattern": self.pattern,
            "maxLength": 32,
        }


QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$"
Quantity = Annotated[str, IntOrString(QUANTITY_PATTERN)]
"""A Kubernetes quantity such as 500m, 4 or 16Gi."""

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253),
]
"""The name of a Kubernetes object (RFC 1123 subdomain)."""

ShortText = Annotated[str, Field(max_length=256)]
MESSAGE_LENGTH = 1024
Message = Annotated[str, Field(max_length=MESSAGE_LENGTH)]
