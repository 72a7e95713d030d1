"""The policy on Secrets: on by default, for the namespaces that the operator serves, for every Secret of a spec."""

import pytest

from chart.rendering import NAMESPACED, Rendered
from finetune_api.finetunejob import MAX_SECRET_VARIABLES
from finetune_api.resources import SchedulingSpec
from finetune_api.schema import structural
from unit.api.schemas import crd_schema, nodes


def test_it_refuses_and_binds_itself_to_all_namespaces() -> None:
    rendered = Rendered.of()
    binding = rendered.only("ValidatingAdmissionPolicyBinding")
    policy = rendered.only("ValidatingAdmissionPolicy")
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    assert policy["spec"]["failurePolicy"] == "Fail"


def test_an_operator_for_some_namespaces_has_a_policy_for_these() -> None:
    spec = Rendered.of(NAMESPACED).only("ValidatingAdmissionPolicyBinding")["spec"]
    (expression,) = spec["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["team-a", "team-b"]


def test_no_field_of_the_spec_names_a_secret_that_the_policy_does_not_know() -> None:
    named = {place for place, _ in nodes(crd_schema("spec"), ("spec",)) if "secret" in place[-1].lower()}
    assert named == {
        ("spec", "model", "credentials", "secretName"),
        ("spec", "scheduling", "imagePullSecrets"),
        ("spec", "env", "[]", "valueFrom", "secretKeyRef"),
    }


@pytest.mark.parametrize(
    ("variable", "most"),
    [
        ("pullSecrets", structural(SchedulingSpec)["properties"]["imagePullSecrets"]["maxItems"]),
        ("environment", MAX_SECRET_VARIABLES),
    ],
)
def test_every_item_of_a_list_of_secrets_is_checked(variable: str, most: int) -> None:
    validations = Rendered.of().only("ValidatingAdmissionPolicy")["spec"]["validations"]
    checked = [one["expression"] for one in validations if f"variables.{variable}[" in one["expression"]]
    assert [f"variables.{variable}[{index}]" in text for index, text in enumerate(checked)] == [True] * most


@pytest.mark.parametrize("name", [{}, {"fullnameOverride": "tuner"}])
def test_the_operator_is_exempt_by_the_name_of_its_service_account(name: dict[str, str]) -> None:
    rendered = Rendered.of(name)
    account = rendered.only("ServiceAccount")["metadata"]
    (condition,) = rendered.only("ValidatingAdmissionPolicy")["spec"]["matchConditions"]
    user = f"system:serviceaccount:{account['namespace']}:{account['name']}"
    assert condition["expression"] == f"request.userInfo.username != '{user}'"


def test_an_expression_asks_the_authorizer_at_most_twice_which_is_what_the_server_allows() -> None:
    validations = Rendered.of().only("ValidatingAdmissionPolicy")["spec"]["validations"]
    assert max(one["expression"].count("authorizer") for one in validations) <= 2


def test_it_can_be_left_out() -> None:
    rendered = Rendered.of({"policy": {"secrets": False}})
    assert not list(rendered.all("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"))
