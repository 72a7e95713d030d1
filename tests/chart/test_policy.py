"""The policy on Secrets: on by default, for the namespaces that the operator serves, for every Secret of a spec."""

from chart.rendering import NAMESPACED, Rendered
from finetune_api.resources import SchedulingSpec
from finetune_api.schema import structural


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


def test_every_pull_secret_that_a_spec_can_name_is_checked() -> None:
    most = structural(SchedulingSpec)["properties"]["imagePullSecrets"]["maxItems"]
    validations = Rendered.of().only("ValidatingAdmissionPolicy")["spec"]["validations"]
    checked = [one["expression"] for one in validations if "variables.pullSecrets[" in one["expression"]]
    assert [f"variables.pullSecrets[{index}]" in text for index, text in enumerate(checked)] == [True] * most


def test_an_expression_asks_the_authorizer_at_most_twice_which_is_what_the_server_allows() -> None:
    validations = Rendered.of().only("ValidatingAdmissionPolicy")["spec"]["validations"]
    assert max(one["expression"].count("authorizer") for one in validations) <= 2


def test_it_can_be_left_out() -> None:
    rendered = Rendered.of({"policy": {"secrets": False}})
    assert not list(rendered.all("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"))
