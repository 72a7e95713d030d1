"""GPUs that a driver allocates: one process per device that the templates of the claims ask for."""

from dataclasses import replace
from typing import Any

import pytest

from builders import job, script_job, stored
from finetune_api.finetunejob import Preflight
from finetune_api.status import ConditionType, MemberStatus, TrialState
from finetune_core.decide.observation import ClaimView, Observation
from finetune_core.plan.claims import Devices, accelerator_in, devices_of, templates_of
from finetune_core.plan.conclusion import of_one_pod
from finetune_core.plan.effective import resolve
from finetune_core.plan.reading import parse
from finetune_core.plan.workload import plan
from finetune_core.settings import OperatorSettings
from unit.operator.model_cluster import ModelCluster
from unit.operator.test_reconcile_histories import Operator
from unit.operator.worlds import (
    CREATE,
    NOTHING,
    Life,
    child,
    condition,
    over,
    parsed,
    run_json,
    running_pod,
    seconds,
    seen,
    settings,
)

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


def test_a_retry_begins_once_the_templates_were_read_again() -> None:
    life = Life(parsed(**ASKED))
    life.reconcile(seen_claim(ClaimView("two", True, Devices(4))))
    assert life.reconcile(over(75), at=60).requeue_at == seconds(60)
    assert (life.status.attempt, life.reason) == (1, "WaitingToRetry")
    life.reconcile(seen_claim(ClaimView("two", True, Devices(2))), at=60)
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


@pytest.mark.parametrize(
    ("device_class", "computes"),
    [
        (GPU, True),
        ("mig.nvidia.com", True),
        ("vfio.gpu.nvidia.com", True),
        ("gpu.intel.com", True),
        ("tpu.google.com", True),
        ("npu.rebellions.ai", True),
        ("neuron.aws.com", True),
        ("large-gpus", True),
        ("nic.example", False),
        ("mrdma.google.com", False),
        ("efa.networking.k8s.aws", False),
        ("compute-domain-default-channel.nvidia.com", False),
        ("migrated-nics.example", False),
    ],
)
def test_devices_to_compute_on_are_told_by_the_name_of_their_class(device_class: str, computes: bool) -> None:
    found = device_class if computes else None
    assert accelerator_in(template(exactly("nic.example"), exactly(device_class))) == found
    options = [{"deviceClassName": "nic.example"}, {"deviceClassName": device_class}]
    assert accelerator_in(template({"firstAvailable": options})) == found


ON_CPU: dict[str, Any] = {"resources": {"gpusPerNode": 0, "claims": CLAIMS}}
HELD = ClaimView("two", True, Devices(2), GPU)
NICS = ClaimView("two", True, Devices(problem="request r0 takes all devices of a node"))


@pytest.mark.parametrize("given", [settings(), settings(preflight=Preflight.REQUIRED)])
@pytest.mark.parametrize("of", [job(**ON_CPU), script_job(**ON_CPU)])
def test_nothing_begins_that_would_hold_gpus_and_train_on_the_cpu(
    of: dict[str, Any], given: OperatorSettings
) -> None:
    life = Life(parsed(of), given)
    decision = life.reconcile(seen_claim(HELD))
    assert (decision.action, life.status.attempt, life.status.preflight) == (NOTHING, None, None)
    assert (life.reason, decision.requeue_at) == ("InvalidSpec", seconds(15))
    assert condition(life.status, ConditionType.STALLED).status == "True"
    assert life.message == (
        "spec.resources.claims: ResourceClaimTemplate two: it asks for devices of class gpu.nvidia.com, which the job"
        " would hold while it trains on the CPU (gpusPerNode: 0); suspend the job, remove gpusPerNode to train on"
        " them, or remove the claim, and set spec.suspend to false"
    )
    assert life.reconcile(seen_claim(NICS), at=15).action is not NOTHING, "all devices of a network"


def test_on_the_cpu_too_a_template_that_does_not_exist_is_named() -> None:
    life = Life(parsed(**ON_CPU))
    assert life.reconcile(seen_claim(ClaimView("two", False, Devices()))).action is NOTHING
    assert (life.reason, life.status.attempt) == ("MissingObject", None)


def test_an_attempt_that_runs_goes_on_whatever_becomes_of_its_template() -> None:
    life = Life(parsed(**ON_CPU))
    life.reconcile(seen_claim(NICS))
    running = replace(seen(child(), running_pod()), claims=(HELD,))
    assert life.reconcile(running, at=60).action is NOTHING
    assert life.phase == "Running"
    life.reconcile(over(75), at=90)
    life.reconcile(seen_claim(HELD), at=90)
    assert (life.status.attempt, life.reason) == (1, "InvalidSpec")


def test_what_is_claimed_since_the_attempt_began_is_read_before_the_next_one() -> None:
    life = Life(parsed(resources={"gpusPerNode": 0})).running()
    life.change(resources=parsed(**ASKED).spec.resources)
    life.reconcile(over(75), at=60)
    life.reconcile(seen_claim(ClaimView("two", True, Devices(2), GPU)), at=60)
    effective = life.status.effective
    assert effective
    assert effective.resources
    assert (life.status.attempt, effective.resources.gpus_per_node) == (2, 2)


def test_a_parent_says_it_before_its_preflight_and_not_once_its_runs_have_ended() -> None:
    life = Life(parsed(**ON_CPU, ensemble={"members": 2}), settings(preflight=Preflight.REQUIRED))
    assert life.reconcile(seen_claim(HELD)).action is NOTHING
    assert life.reason == "InvalidSpec"
    ended = [MemberStatus(number=number, name=f"m{number}", state=TrialState.SUCCEEDED) for number in (1, 2)]
    life.store(life.status.model_copy(update={"members": ended}))
    assert life.reconcile(seen_claim(HELD), at=60).action is CREATE, "a pod that combines claims nothing"


SEARCH = {"parameters": [{"path": "training.seed", "choice": [1, 2]}]}


@pytest.mark.parametrize("of", [{"ensemble": {"members": 2}}, {"search": SEARCH}])
@pytest.mark.parametrize("preflight", [Preflight.SKIP, Preflight.REQUIRED])
async def test_the_runs_of_a_parent_begin_once_its_template_fits(
    of: dict[str, Any], preflight: Preflight
) -> None:
    cluster = ModelCluster()
    operator = Operator(cluster, settings(preflight=preflight))
    operator.add(operator.cache.put_finetunejob(cluster.put("FineTuneJob", job("parent", **ON_CPU, **of))))

    async def visits() -> dict[str, Any]:
        for _ in range(20):
            await operator.visit()
            cluster.now += 1
        conditions = cluster.objects["FineTuneJob", "parent"]["status"]["conditions"]
        return next(one for one in conditions if one["type"] == "Running")

    assert (await visits())["reason"] == "MissingObject"
    named = template(exactly()) | {"metadata": {"name": "two"}}
    cluster.put("ResourceClaimTemplate", named)
    found = await visits()
    assert (found["reason"], "of class gpu.nvidia.com" in found["message"]) == ("InvalidSpec", True)
    assert (cluster.of("Job"), len(cluster.of("FineTuneJob"))) == ([], 1)
    cluster.change("ResourceClaimTemplate", "two", **template(exactly("nic.example", allocationMode="All")))
    await visits()
    begun = "Job" if preflight is Preflight.REQUIRED else "FineTuneJob"
    assert [one for one in cluster.of(begun) if one["metadata"]["name"] != "parent"]


@pytest.mark.parametrize(
    ("resources", "read"),
    [
        (None, []),
        ({"gpusPerNode": 0}, []),
        ({"gpusPerNode": 2, "claims": CLAIMS}, []),
        ({"gpusPerNode": 0, "claims": CLAIMS}, ["two"]),
        ({"claims": CLAIMS}, ["two"]),
    ],
)
def test_templates_are_read_only_where_they_matter(resources: Any, read: list[str]) -> None:
    assert templates_of(parsed(**({"resources": resources} if resources else {})).spec.resources) == read


def test_with_gpus_per_node_claims_come_in_addition() -> None:
    both = parse(stored(job(resources={"gpusPerNode": 2, "claims": CLAIMS})))
    resolved = resolve(both, settings())
    limits = plan(both, resolved, 1, settings(), "").job["spec"]["template"]["spec"]["containers"][0]
    assert limits["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert limits["resources"]["claims"] == [{"name": "gpus"}]


def test_a_pod_that_trains_nothing_claims_nothing() -> None:
    resolved = of_one_pod(resolve(replace(parse(stored(job(**ASKED)))), settings()), trains=False)
    assert (resolved.resources.claims, resolved.resources.gpus_per_node) == (None, 0)
