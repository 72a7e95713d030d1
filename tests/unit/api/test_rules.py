"""The contract's rules in their Python form. The API server reads the same cases in tests/integration."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from builders import job, script_spec, spec
from finetune_api.finetunejob import IMMUTABLE, JOB_RULES, WHILE_SUSPENDED, FineTuneJobSpec
from unit.api.cases import (
    ACCEPTED,
    BROKEN_RULES,
    ENDED_SEARCH,
    NAME_MESSAGE,
    NAME_OF_A_PARENT,
    NAMES,
    NAMES_OF_PARENTS,
    RATES,
    UNKNOWN_FIELDS,
    UPDATES,
    WRONG_TYPES_AND_BOUNDS,
    Case,
    Update,
)
from unit.api.schemas import crd_schema, leaf_places, messages, nodes


def refusal(case: Case) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        FineTuneJobSpec.from_json(case.spec)
    return caught.value


def places_of(error: ValidationError) -> list[str]:
    """The places as the API server writes them: spec.env[0].name."""
    return [
        re.sub(r"\.(\d+)", r"[\1]", ".".join(["spec", *map(str, part["loc"])])) for part in error.errors()
    ]


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_a_valid_spec_is_accepted_and_survives_a_round_trip(case: Case) -> None:
    read = FineTuneJobSpec.from_json(case.spec)
    assert FineTuneJobSpec.from_json(read.to_json()) == read


@pytest.mark.parametrize("case", BROKEN_RULES, ids=str)
def test_a_broken_rule_is_refused_with_its_message(case: Case) -> None:
    assert str(case.message) in str(refusal(case))


@pytest.mark.parametrize("case", WRONG_TYPES_AND_BOUNDS + UNKNOWN_FIELDS, ids=str)
def test_a_wrong_type_bound_or_name_is_refused_with_its_place(case: Case) -> None:
    assert str(case.field) in places_of(refusal(case))


@pytest.mark.parametrize(("name", "accepted"), NAMES.items())
def test_a_name_is_accepted_when_pods_can_carry_it(name: str, accepted: bool) -> None:
    assert all(rule.holds(job(name)) for rule in JOB_RULES if rule.holds) is accepted


@pytest.mark.parametrize("parent", [{"search": {"parameters": [RATES]}}, {"ensemble": {"members": 3}}])
@pytest.mark.parametrize(("name", "accepted"), NAMES_OF_PARENTS.items())
def test_a_name_is_accepted_when_runs_can_carry_it(name: str, accepted: bool, parent: dict[str, Any]) -> None:
    assert all(rule.holds(job(name, **parent)) for rule in JOB_RULES if rule.holds) is accepted


PROVOKED = (
    {str(case.message) for case in BROKEN_RULES}
    | {update.message for update in UPDATES}
    | {NAME_MESSAGE, NAME_OF_A_PARENT, *ENDED_SEARCH.values()}
)


def test_no_rule_is_left_without_a_case_that_provokes_it() -> None:
    unprovoked = {text for text in messages(crd_schema()) if not any(part in text for part in PROVOKED)}
    assert unprovoked == set()


@pytest.mark.parametrize("part", sorted(PROVOKED))
def test_the_message_that_a_case_expects_is_of_one_rule_only(part: str) -> None:
    assert len([text for text in messages(crd_schema()) if part in text]) == 1


def test_every_field_is_shown_by_an_accepted_case() -> None:
    shown = set[tuple[str, ...]]().union(*(leaf_places(case.spec) for case in ACCEPTED))
    choices = {place for place, node in nodes(crd_schema("spec")) if node.get("maxProperties") == 1}
    missing = {
        place
        for place, _ in nodes(crd_schema("spec"))
        if place not in shown
        and "*" not in place
        and not any(place[: len(choice)] == choice for choice in choices)  # shows one of its members
    }
    assert missing == set()


def test_every_immutable_field_is_changed_added_and_removed_by_a_case() -> None:
    titles = {update.title for update in UPDATES}
    for field in IMMUTABLE + WHILE_SUSPENDED:
        assert {f"{verb} {field}" for verb in ("change", "add", "remove")} <= titles


@pytest.mark.parametrize("update", UPDATES, ids=str)
def test_what_stands_before_an_update_is_valid(update: Update) -> None:
    FineTuneJobSpec.from_json(update.before)


def test_python_names_are_for_python_and_not_for_yaml() -> None:
    assert FineTuneJobSpec(command=["run"], active_deadline_seconds=5).active_deadline_seconds == 5
    with pytest.raises(ValidationError, match="active_deadline_seconds"):
        FineTuneJobSpec.from_json(script_spec(active_deadline_seconds=5))


def test_an_objective_is_the_member_that_has_a_value() -> None:
    read = FineTuneJobSpec.model_validate(spec(objective={"classification": None, "regression": {}}))
    assert read.objective is not None
    assert read.objective.kind == "regression"
    with pytest.raises(ValidationError, match="exactly one"):
        FineTuneJobSpec.model_validate(spec(objective={"classification": None}))
