"""The CRD on a real API server: accepted, structural, explained."""

import json
from collections.abc import Callable

import pytest
from kubernetes.client import ApiClient, ApiextensionsV1Api

from finetune_api.crd import crd
from unit.api.schemas import crd_schema, nodes


def conditions(client: ApiClient) -> dict[str, str]:
    stored = ApiextensionsV1Api(client).read_custom_resource_definition(crd()["metadata"]["name"])
    return {one.type: one.status for one in stored.status.conditions}


def test_the_crd_is_established_and_structural(client: ApiClient) -> None:
    found = conditions(client)
    assert (found["Established"], found["NamesAccepted"]) == ("True", "True")
    assert "NonStructuralSchema" not in found


def test_the_server_keeps_the_crd_as_we_wrote_it_so_that_no_tool_sees_drift(
    output: Callable[..., str],
) -> None:
    stored = json.loads(output("get", "crd", crd()["metadata"]["name"], "-o", "json"))
    assert stored["spec"].pop("conversion") == {"strategy": "None"}
    assert stored["spec"] == crd()["spec"]


@pytest.mark.parametrize("name", ["finetunejobs", "finetunejob", "ftj", "finetune"])
def test_jobs_are_found_under_each_of_their_names(output: Callable[..., str], name: str) -> None:
    assert output("get", name) == ""


def test_explain_is_the_reference(output: Callable[..., str]) -> None:
    text = " ".join(output("explain", "ftj.spec.training.optimizer").split())
    assert "Peak learning rate, reached at the end of the warm-up. For example 5e-5. Default: 5e-05." in text
    assert "AdamW decays weights directly (decoupled); SGD adds the decay to the gradient (L2)." in text
    assert "enum: AdamW" in text


def test_explain_knows_every_field(output: Callable[..., str]) -> None:
    text = output("explain", "ftj", "--recursive")
    fields = {place[-1] for place, _ in nodes(crd_schema("spec"), ("spec",)) if place[-1] not in ("[]", "*")}
    missing = {field for field in fields if f"{field}\t" not in text}
    assert missing == set()
