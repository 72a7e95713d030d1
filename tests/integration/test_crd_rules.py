"""The cases of tests/unit/api/cases.py on a real API server, and Python's and the server's verdicts compared."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException
from pydantic import ValidationError

from builders import REVIEWS, job, manifest, script_spec, spec
from finetune_api.finetunejob import FineTuneJobSpec
from integration.jobs import Jobs, refusal_of, refusal_of_update
from unit.api.cases import (
    ACCEPTED,
    BROKEN_RULES,
    NAME_MESSAGE,
    NAMES,
    UNKNOWN_FIELDS,
    UPDATES,
    WRONG_TYPES_AND_BOUNDS,
    Case,
    Update,
)
from unit.api.schemas import crd_schema, values
from unit.api.test_uris import CLAIM, CONFIG_MAP, HUB_DATA, HUB_PATTERNS, NEITHER, NO_PATTERNS, PATTERNS


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_a_valid_spec_is_accepted_and_pydantic_reads_what_the_server_made_of_it(
    jobs: Jobs, case: Case
) -> None:
    kept = jobs.try_out(manifest("job", case.spec))
    assert FineTuneJobSpec.from_json(kept["spec"]) == FineTuneJobSpec.from_json(case.spec)


@pytest.mark.parametrize("case", BROKEN_RULES, ids=str)
def test_a_broken_rule_is_refused_with_its_message(jobs: Jobs, case: Case) -> None:
    assert str(case.message) in refusal_of(jobs, manifest("job", case.spec))


def test_every_broken_rule_is_named_with_the_section(jobs: Jobs) -> None:
    refusal = refusal_of(
        jobs,
        manifest(
            "job", spec(dataset={"train": {"uri": REVIEWS}, "columns": {"prompt": "p", "messages": "m"}})
        ),
    )
    first = "spec.dataset.columns.prompt is for objective.causalLM and preference"
    second = "spec.dataset.columns.messages and tools are for objective.causalLM; remove them"
    assert f"spec.dataset: Invalid value: {first}" in refusal
    assert f". {second}" in refusal


@pytest.mark.parametrize("case", WRONG_TYPES_AND_BOUNDS + UNKNOWN_FIELDS, ids=str)
def test_a_wrong_type_bound_or_name_is_refused_with_its_place(jobs: Jobs, case: Case) -> None:
    assert str(case.field) in refusal_of(jobs, manifest("job", case.spec))


@pytest.mark.parametrize("case", UNKNOWN_FIELDS, ids=str)
def test_without_strictness_an_unknown_field_is_left_out_with_a_warning(jobs: Jobs, case: Case) -> None:
    kept, warning = jobs.create_with_warnings(manifest("job", case.spec))
    parent, _, name = str(case.field).rpartition(".")
    holder = kept
    for part in parent.split("."):
        holder = holder[part]
    assert f'unknown field \\"{case.field}\\"' in warning
    assert name not in holder


@pytest.mark.parametrize(("name", "accepted"), NAMES.items())
def test_a_name_is_accepted_when_pods_can_carry_it(jobs: Jobs, name: str, accepted: bool) -> None:
    if accepted:
        assert jobs.try_out(job(name))["metadata"]["name"] == name
    else:
        assert NAME_MESSAGE in refusal_of(jobs, job(name))


@pytest.mark.parametrize("update", UPDATES, ids=str)
def test_a_change_of_what_cannot_change_is_refused(jobs: Jobs, update: Update) -> None:
    stored = jobs.create(manifest("job", update.before))
    assert update.message in refusal_of_update(jobs, stored, update.after)


@pytest.mark.parametrize("update", UPDATES, ids=str)
def test_the_same_spec_again_is_no_change(jobs: Jobs, update: Update) -> None:
    stored = jobs.create(manifest("job", update.before))
    assert jobs.replace_spec(stored, update.before)["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    "uri",
    [*CLAIM, *CONFIG_MAP, *NEITHER, *PATTERNS, *NO_PATTERNS, *HUB_DATA, *HUB_PATTERNS],
    ids=ascii,
)
def test_the_server_reads_a_uri_as_python_does(jobs: Jobs, uri: str) -> None:
    for fields in ({"output": {"uri": uri}}, {"dataset": {"train": {"uri": uri}}}):
        written = spec(**fields)
        assert served(jobs, written) is parsed(written)


def served(jobs: Jobs, written: dict[str, Any]) -> bool:
    try:
        jobs.try_out(manifest("job", written))
    except ApiException as error:
        if error.status != 422:
            raise
        return False
    return True


def parsed(written: dict[str, Any]) -> bool:
    try:
        FineTuneJobSpec.from_json(written)
    except ValidationError:
        return False
    return True


_FIELDS = crd_schema("spec")["properties"]
_OF_SCRIPTS = {"command", "env", "image"}
one_field = st.one_of(
    st.builds(lambda value, name=name: {name: value}, values(schema)) for name, schema in _FIELDS.items()
)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
@given(one_field)
def test_python_and_the_server_agree_on_any_value_of_a_field(
    client: ApiClient, field: dict[str, Any]
) -> None:
    written = script_spec(**field) if field.keys() & _OF_SCRIPTS else spec(**field)
    assert served(Jobs(client, "default"), written) is parsed(written)
