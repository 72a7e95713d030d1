"""GPUs that a driver allocates: one process per device that the templates of the claims ask for."""

from dataclasses import replace
from typing import Any

import pytest

from builders import job, stored
from finetune_core.decide.observation import ClaimView, Observation
from finetune_core.plan.claims import Devices, devices_of
from finetune_core.plan.conclusion import of_one_pod
from finetune_core.plan.effective import resolve
from finetune_core.plan.reading import parse
from finetune_core.plan.workload import plan
from unit.operator.worlds import CREATE, Life, over, parsed, run_json, settings

GPU = "gpu.nvidia.com"
CLAIMS = [{"name": "gpus", "resourceClaimTemplateName": "two"}]
ASKED: dict[str, Any] = {"resources": {"claims": CLAIMS}}


def template(*requests: dict[str, Any]) -> dict[str, Any]:
    named = [{"name": f"r{number}"} | request for number, request in enumerate(requests)]
    return {"spec": {"spec": {"devices": {"requests": named}}}}


def exactly(device_class: str = GPU, **fields: Any) -> dict[str, Any]:
    return {"exactly": {"deviceClassName": device_class} | fields}


@pytest.mark.parametrize(
    ("requests", "count"),
    [
        ([exactly()], 1),
        ([exactly(allocationMode="ExactCount", count=4)], 4),
        ([exactly(count=2), exactly(count=2)], 4),
        ([exactly(count=8), exactly("nic.example", count=4)], 8),
        ([exactly("nic.example", count=4), exactly("fpga.example")], 5),
        (
            [
                {
                    "firstAvailable": [
                        {"deviceClassName": GPU, "count": 2},
                        {"deviceClassName": "old", "count": 2},
                    ]
                }
            ],
            2,
        ),
        ([], 0),
    ],
)
def test_the_devices_of_a_template_are_counted(requests: list[dict[str, Any]], count: int) -> None:
    assert devices_of(template(*requests)) == Devices(count)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (exactly(allocationMode="All"), "request r0 takes all devices of a node"),
        (
            {"firstAvailable": [{"count": 8}, {"count": 4}]},
            "request r0 takes 4, 8 devices, whichever are available",
        ),
    ],
)
def test_a_number_that_is_not_known_is_a_problem(request_: dict[str, Any], says: str) -> None:
    assert says in (devices_of(template(request_)).problem or "")


def test_a_strange_template_is_read_without_an_exception() -> None:
    for strange in (None, {}, {"spec": {"spec": {"devices": {"requests": [None, 3, {"exactly": []}]}}}}):
        assert devices_of(strange).problem is None


def seen_claim(view: ClaimView) -> Observation:
    return Observation(claims=(view,))


def test_the_number_is_in_the_status_before_the_attempt_is_created_and_in_what_is_created() -> None:
    life = Life(parsed(**ASKED))
    decision = life.reconcile(seen_claim(ClaimView("two", True, Devices(2))))
    assert decision.action is CREATE
    assert life.status.effective
    assert life.status.effective.resources
    assert life.status.effective.resources.gpus_per_node == 2
    made = plan(life.job, resolve(life.job, settings()), 1, settings(), "")
    assert run_json(made)["devices"]["gpus"] == 2
    pod = made.job["spec"]["template"]["spec"]
    assert pod["resourceClaims"] == CLAIMS
    assert pod["containers"][0]["resources"] == {"requests": {}, "limits": {}, "claims": [{"name": "gpus"}]}


def test_a_retry_in_the_same_visit_keeps_the_number() -> None:
    life = Life(parsed(**ASKED))
    life.reconcile(seen_claim(ClaimView("two", True, Devices(2))))
    life.reconcile(over(75), at=60)
    assert life.status.attempt == 2
    assert life.status.effective
    assert life.status.effective.resources
    assert life.status.effective.resources.gpus_per_node == 2


@pytest.mark.parametrize(
    ("view", "reason", "says"),
    [
        (
            ClaimView("two", False, Devices()),
            "MissingObject",
            "ResourceClaimTemplate two does not exist in namespace",
        ),
        (
            ClaimView("two", True, Devices(problem="request r0 …")),
            "InvalidSpec",
            "spec.resources.claims: Resource",
        ),
    ],
)
def test_no_attempt_begins_before_the_number_is_known(view: ClaimView, reason: str, says: str) -> None:
    life = Life(parsed(**ASKED))
    decision = life.reconcile(seen_claim(view))
    assert (decision.action is CREATE, life.status.attempt, life.reason) == (False, None, reason)
    assert says in life.message
    assert decision.requeue_at


def test_with_gpus_per_node_claims_come_in_addition() -> None:
    both = parse(stored(job(resources={"gpusPerNode": 2, "claims": CLAIMS})))
    resolved = resolve(both, settings())
    limits = plan(both, resolved, 1, settings(), "").job["spec"]["template"]["spec"]["containers"][0]
    assert limits["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert limits["resources"]["claims"] == [{"name": "gpus"}]


def test_a_pod_that_trains_nothing_claims_nothing() -> None:
    resolved = of_one_pod(resolve(replace(parse(stored(job(**ASKED)))), settings()), trains=False)
    assert (resolved.resources.claims, resolved.resources.gpus_per_node) == (None, 0)
