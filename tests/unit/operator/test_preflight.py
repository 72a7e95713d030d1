"""Preflight, decision by decision: what waits for it, what it asks for, how it ends and what follows."""

from dataclasses import replace
from typing import Any

import pytest

from builders import UID, job, script_job, stored
from finetune_api.finetunejob import Preflight
from finetune_api.preflight import PreflightConfig
from finetune_api.run import FaultPlace, RunReport
from finetune_api.status import (
    AttemptStatus,
    FineTuneJobStatus,
    MemberStatus,
    PreflightFindings,
    PreflightStatus,
    ResolvedModel,
    ResolvedStatus,
    TrialState,
)
from finetune_core.decide.actions import Action
from finetune_core.decide.observation import InputView, JobView, Observation, PodView
from finetune_core.decide.preflight import MOST_RETRIES, awaits_preflight
from finetune_core.plan.effective import resolve
from finetune_core.plan.naming import preflight_name
from finetune_core.plan.preflight import preflight_plan
from finetune_core.plan.reading import parse
from unit.operator.worlds import (
    CREATE,
    DELETE,
    NOTHING,
    T0,
    Life,
    child,
    ended_pod,
    parsed,
    pod,
    run_json,
    running_pod,
    seconds,
    settings,
)

CHECK, HALT = Action.CREATE_PREFLIGHT, Action.STOP_PREFLIGHT
ON = settings(preflight=Preflight.REQUIRED)
PASSED = RunReport(exit_code=0, message="2 labels", preflight=PreflightFindings(train_rows=180, labels=2))


def checked_job(**fields: Any) -> Life:
    return Life(parsed(**({"resources": {"gpusPerNode": 1}} | fields)), ON)


def seen(*views: JobView | PodView) -> Observation:
    """Of preflight, where each try is numbered as an attempt is."""
    return Observation(
        preflight_jobs=tuple(view for view in views if isinstance(view, JobView)),
        preflight_pods=tuple(view for view in views if isinstance(view, PodView)),
    )


def over(code: int, number: int = 1, **fields: Any) -> Observation:
    return seen(child(number, succeeded=code == 0, failed=code != 0), ended_pod(code, number, **fields))


def preflight(life: Life) -> PreflightStatus:
    assert life.status.preflight
    return life.status.preflight


def test_a_job_with_gpus_is_checked_before_its_first_attempt_is_opened() -> None:
    life = checked_job()
    decision = life.reconcile()
    assert (life.phase, life.reason, decision.action) == ("Pending", "Preflight", CHECK)
    assert (preflight(life).number, preflight(life).start_time) == (1, T0)
    assert (life.status.attempt, life.status.attempts) == (None, [])


@pytest.mark.parametrize(
    "fields",
    [
        {"resources": {"gpusPerNode": 0}},
        {"preflight": "Skip"},
    ],
    ids=str,
)
def test_a_job_that_asks_for_no_check_begins_with_its_first_attempt(fields: dict[str, Any]) -> None:
    assert checked_job(**fields).reconcile().action is CREATE


def test_a_job_on_the_cpu_is_checked_where_it_asks_for_it() -> None:
    assert checked_job(resources={"gpusPerNode": 0}, preflight="Required").reconcile().action is CHECK


def test_the_administrator_may_leave_it_to_the_job() -> None:
    life = checked_job()
    life.settings = settings(preflight=Preflight.SKIP)
    assert life.reconcile().action is CREATE
    asked = Life(parsed(resources={"gpusPerNode": 1}, preflight="Required"), settings())
    assert asked.reconcile().action is CHECK


def test_a_script_is_not_checked() -> None:
    assert Life(parsed(script_job(resources={"gpusPerNode": 1})), ON).reconcile().action is CREATE


def test_a_run_of_a_parent_is_not_checked_as_its_parent_was() -> None:
    life = checked_job()
    life.job = replace(life.job, parent_uid="of-a-search")
    assert life.reconcile().action is CREATE


@pytest.mark.parametrize(
    "status",
    [
        FineTuneJobStatus(attempt=1, attempts=[AttemptStatus(number=1)]),
        FineTuneJobStatus(
            members=[MemberStatus(number=1, name="team-m1", state=TrialState.RUNNING)],
        ),
    ],
    ids=["attempts", "runs"],
)
def test_what_began_before_an_upgrade_goes_on_without_it(status: FineTuneJobStatus) -> None:
    of = replace(parsed(resources={"gpusPerNode": 1}), status=status)
    assert not awaits_preflight(of, resolve(of, ON), ON)


def test_a_job_whose_status_was_lost_while_it_trained_is_not_checked_again() -> None:
    life = checked_job()
    decision = life.reconcile(Observation(jobs=(child(3),), pods=(running_pod(3),)))
    assert (decision.action, life.status.attempt) == (CREATE, 3)


def test_an_ordinary_check_costs_no_write_until_it_has_ended() -> None:
    life = checked_job()
    first = life.reconcile().status
    for at, observation in (
        (1, seen(child())),
        (5, seen(child(), pod(node="n1"))),
        (40, seen(child(), running_pod())),
        (60, seen(child(), ended_pod(65, message="no"))),  # the Job controller has yet to count the pod
    ):
        decision = life.reconcile(observation, at=at)
        assert (decision.status, decision.action) == (first, NOTHING)
        assert decision.requeue_at


def test_a_check_that_passed_opens_the_first_attempt_with_what_was_found() -> None:
    life = checked_job()
    life.reconcile()
    resolved = ResolvedStatus(model=ResolvedModel(revision="a" * 40))
    report = PASSED.model_copy(update={"resolved": resolved})
    decision = life.reconcile(over(0, report=report, at=seconds(9)), at=10)
    assert (decision.action, life.status.attempt) == (CREATE, 1)
    found = preflight(life)
    assert (found.reason, found.train_rows, found.labels, found.exit_code) == ("Succeeded", 180, 2, 0)
    assert (found.running_time, found.end_time, found.node) == (T0, seconds(9), "n1")
    assert life.message == "attempt 1 begins (preflight: 2 labels)"
    assert life.status.resolved == resolved


def test_the_first_attempt_does_not_wait_until_the_job_controller_has_counted_the_pod() -> None:
    life = checked_job()
    life.reconcile()
    decision = life.reconcile(seen(child(), ended_pod(0, report=PASSED)), at=9)
    assert decision.action is CREATE


def test_it_is_never_done_again_after_it_passed() -> None:
    life = checked_job()
    life.reconcile()
    life.reconcile(over(0, report=PASSED), at=9)
    life.job = replace(life.job, spec=life.job.spec.model_copy(update={"suspend": True}))
    assert life.reconcile(at=10).action is NOTHING
    life.job = replace(life.job, spec=life.job.spec.model_copy(update={"suspend": False}))
    assert (life.reconcile(at=20).action, life.status.attempt) == (CREATE, 2)


@pytest.mark.parametrize(
    ("code", "reason"),
    [(64, "ConfigurationError"), (65, "DataError"), (66, "NotFound"), (71, "OutOfMemory")],
)
def test_what_would_fail_with_gpus_fails_the_job_before_any_is_asked_for(code: int, reason: str) -> None:
    life = checked_job(ttlSecondsAfterFinished=60)
    life.reconcile()
    report = RunReport(exit_code=code, message="train.jsonl, row 7: no label")
    decision = life.reconcile(over(code, report=report), at=9)
    assert (life.phase, life.reason, decision.action) == ("Failed", reason, NOTHING)
    assert life.message == "train.jsonl, row 7: no label (found by preflight, no GPU was requested)"
    assert (life.status.attempt, preflight(life).reason, preflight(life).exit_code) == (None, reason, code)
    assert life.reconcile(over(code, report=report), at=10).requeue_at == seconds(69)
    assert life.reconcile(over(code, report=report), at=70).action is DELETE


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (over(75, report=RunReport(exit_code=75)), "Interrupted"),
        (over(137, disruption="EvictionByEvictionAPI"), "Preempted"),
        (over(74, report=RunReport(exit_code=74, message="full")), "StorageFailed"),
        (over(70, report=RunReport(exit_code=70, message="a bug")), "TrainerFault"),
        (over(137), "Killed"),
        (seen(running_pod(deleted=True)), "PodLost"),
    ],
    ids=["stopped", "evicted", "storage", "bug", "killed", "lost"],
)
def test_what_may_pass_is_tried_again_without_a_counted_retry(ending: Observation, reason: str) -> None:
    life = checked_job(retry={"limit": 0})
    life.reconcile()
    life.reconcile(ending, at=9)
    at = 10 if life.reason == "Preflight" else 20
    decision = life.reconcile(at=at)
    assert (life.reason, decision.action) == ("Preflight", CHECK)
    assert (preflight(life).number, preflight(life).retries, life.status.retries) == (2, 1, None)
    assert life.status.retry_time is None
    assert reason  # shown in the id


def test_a_pause_before_the_next_try_says_why() -> None:
    life = checked_job()
    life.reconcile()
    decision = life.reconcile(over(74, report=RunReport(exit_code=74, message="the volume is full")), at=9)
    assert (life.reason, decision.requeue_at) == ("WaitingToRetry", seconds(19))
    assert life.message == "preflight 1 ended: the volume is full; the next begins at 12:00:19 UTC"


def test_the_tries_are_bounded() -> None:
    life, at = checked_job(), 0.0
    life.reconcile()
    for number in range(1, MOST_RETRIES + 2):
        assert preflight(life).number == number
        life.reconcile(over(137, number), at=at)
        at += 400
        life.reconcile(at=at)
    assert (life.phase, life.reason) == ("Failed", "Killed")
    assert "try 6 of preflight, the last one; spec.preflight: Skip" in life.message
    assert life.status.attempt is None


def test_suspending_stops_it_and_resuming_does_it_again() -> None:
    life = checked_job()
    life.reconcile()
    life.change(suspend=True)
    decision = life.reconcile(seen(child(), running_pod()), at=5)
    assert (life.reason, decision.action) == ("Stopping", HALT)
    life.change(suspend=False)  # once it stops it stops
    assert life.reconcile(seen(child(), running_pod()), at=6).action is HALT
    life.change(suspend=True)
    stopped = seen(pod(started=T0, deleted=True))
    assert (life.reconcile(stopped, at=8).action, life.phase) == (NOTHING, "Suspended")
    life.change(suspend=False)
    decision = life.reconcile(at=60)
    assert (decision.action, preflight(life).number, preflight(life).retries) == (CHECK, 2, None)


def test_one_that_passed_while_it_was_stopped_counts() -> None:
    life = checked_job()
    life.reconcile()
    life.change(suspend=True)
    life.reconcile(seen(child(), running_pod()), at=5)
    life.reconcile(over(0, report=PASSED), at=6)
    assert (life.phase, preflight(life).reason) == ("Suspended", "Succeeded")


def test_a_job_suspended_before_its_job_exists_creates_nothing() -> None:
    life = checked_job()
    life.reconcile()
    life.change(suspend=True)
    assert (life.reconcile(at=1).action, life.phase) == (NOTHING, "Suspended")


def test_killed_between_status_and_creation_the_same_job_is_created() -> None:
    life = checked_job()
    first = life.reconcile()
    again = life.reconcile(at=5)
    assert (again.action, again.status) == (CHECK, first.status)


def test_a_status_from_a_backup_goes_on_with_the_tries_that_exist() -> None:
    life = checked_job()
    life.reconcile(seen(child(2), running_pod(2)))
    assert preflight(life).number == 2


def test_why_it_does_not_start_is_said_as_for_an_attempt() -> None:
    life = checked_job()
    life.reconcile()
    life.reconcile(seen(child(), pod(unschedulable="0/3 nodes: Insufficient cpu")), at=5)
    assert life.reason == "Unschedulable"
    assert life.message.startswith("preflight: no node fits: 0/3 nodes: Insufficient cpu")
    life.reconcile(seen(child(), running_pod()), at=9)
    assert life.reason == "Preflight"


def test_that_its_job_is_suspended_by_another_is_said_with_the_remedy() -> None:
    life = checked_job()
    life.reconcile()
    name = preflight_name(life.job, 1)
    life.reconcile(seen(replace(child(suspended=True), name=name)), at=5)
    assert life.reason == "Queued"
    assert f"the Job {name} is suspended, and not by this operator; kubectl patch job {name}" in life.message
    assert "spec.preflight: Skip in a new job" in life.message
    evicted = seen(child(suspended=True, queue="default"), ended_pod(143, deleted=True))
    life.reconcile(evicted, at=10)
    assert life.message.startswith("preflight waits in queue default: kubectl describe workloads")
    life.reconcile(seen(child(), running_pod()), at=20)
    assert life.reason == "Preflight"


def test_a_limit_range_that_allows_no_small_requests_is_answered_with_the_field() -> None:
    life = checked_job()
    life.reconcile()
    said = (
        "pods is forbidden: cpu max limit to request ratio per Container is 1, but provided ratio is 8.000000"
    )
    life.reconcile(replace(seen(child()), pod_refusal=said), at=20)
    assert (life.reason, "spec.preflight: Skip in a new job" in life.message) == ("ChildRefused", True)


@pytest.mark.parametrize(("asked", "at"), [(60, 60), (None, 1800)])
def test_one_that_does_not_start_in_time_fails_the_job_and_leaves_no_pod(
    asked: int | None, at: float
) -> None:
    life = checked_job(startupDeadlineSeconds=asked) if asked else checked_job()
    life.reconcile()
    waits = seen(
        child(),
        pod(node="n1", scheduled=T0, waiting_reason="ImagePullBackOff", waiting_message="no such image"),
    )
    assert life.reconcile(waits, at=at - 1).requeue_at == seconds(at)
    assert (life.reconcile(waits, at=at).action, life.reason) == (HALT, "Stopping")
    assert life.reconcile(waits, at=at + 1).action is HALT
    life.reconcile(seen(pod(deleted=True)), at=at + 2)
    assert (life.phase, life.reason) == ("Failed", "StartupDeadlineExceeded")
    assert life.message.startswith("preflight: the image cannot be pulled on node n1: no such image")
    assert f"(not running after {at} s, " in life.message
    assert preflight(life).end_time == seconds(at + 2)


def test_a_volume_that_its_pod_cannot_mount_is_said() -> None:
    life = checked_job()
    life.reconcile()
    said = 'MountVolume.SetUp failed for volume "input-0" : mount failed: exit status 32'
    life.reconcile(seen(child(), pod(node="n1", unmounted=said)), at=20)
    assert life.reason == "StorageFailed"
    assert life.message.startswith(
        "preflight: the claim demo (spec.model.uri, spec.dataset.train.uri) cannot be"
    )


def test_a_config_map_that_somebody_deleted_before_its_pod_had_it_is_made_again() -> None:
    life = checked_job()
    before = life.reconcile().status
    lost = InputView("ConfigMap", preflight_name(life.job, 1), exists=False)
    waits = replace(seen(child(mounts_config_map=True), pod(node="n1")), inputs=(lost,))
    decision = life.reconcile(waits, at=20)
    assert (decision.action, decision.status) == (CHECK, before)
    decision = life.reconcile(replace(waits, inputs=(replace(lost, exists=True),)), at=21)
    assert decision.action is Action.NOTHING


@pytest.mark.parametrize("field", ["kind", "gpuProduct"])
def test_an_older_trainer_image_begins_without_it_and_the_status_says_so(field: str) -> None:
    life = checked_job()
    life.reconcile()
    report = RunReport(exit_code=64, message="kind 'PreflightConfig' …", place=FaultPlace(field=field))
    assert life.reconcile(over(64, report=report), at=9).action is CREATE
    assert (preflight(life).reason, life.status.attempt) == ("Skipped", 1)


def test_an_image_that_is_no_trainer_fails_the_job() -> None:
    life = checked_job()
    life.reconcile()
    life.reconcile(over(0, message="hello"), at=9)
    assert (life.phase, life.reason) == ("Failed", "Unknown")
    assert "exit code 0 without a preflight in the report" in life.message


def test_a_parent_is_checked_once_and_then_its_runs_are_up_to_the_next_visit() -> None:
    life = checked_job(ensemble={"members": 3})
    assert life.reconcile().action is CHECK
    decision = life.reconcile(over(0, report=PASSED), at=9)
    assert (decision.action, decision.requeue_at, life.status.attempt) == (NOTHING, seconds(9), None)
    assert (preflight(life).reason, life.message) == ("Succeeded", "preflight has passed: 2 labels")
    assert not awaits_preflight(life.job, resolve(life.job, ON), ON)


RESOURCES = {
    "gpusPerNode": 8,
    "requests": {"cpu": "64", "memory": "4Gi"},
    "limits": {"memory": "500Gi", "rdma/hca": "1"},
}


def planned_check(*, bound: bool = True, **fields: Any) -> tuple[PreflightConfig, dict[str, Any]]:
    of = parse(stored(job(**({"resources": RESOURCES} | fields)), uid=UID))
    given = settings(progress_url="https://operator", gpu_memory="80Gi")
    found = preflight_plan(of, resolve(of, given), 2, given, "-- certificate --", output_bound=bound)
    assert found.claim is None
    return PreflightConfig.from_json(run_json(found)), found.job


def test_its_pod_asks_for_no_device_and_little_else() -> None:
    config, body = planned_check()
    assert body["metadata"]["name"] == f"movie-sentiment-{UID[:8]}-p2"
    (container,) = body["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": "4Gi"},
        "limits": {"memory": "500Gi"},
    }
    assert container["ports"] == []
    assert config.run.devices.gpus == 8
    assert (config.run.progress, config.run.metrics_port, config.gpu_memory) == (None, 0, 80 * 2**30)


def test_its_pod_is_no_less_restricted_than_that_of_an_attempt() -> None:
    _, body = planned_check()
    pod_spec = body["spec"]["template"]["spec"]
    assert pod_spec["securityContext"]["runAsNonRoot"] is True
    assert pod_spec["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod_spec["automountServiceAccountToken"] is False
    assert not [one for one in pod_spec["volumes"] if one["name"] == "token"]


def test_an_output_claim_without_a_volume_is_not_mounted_so_that_it_does_not_bind_it() -> None:
    config, body = planned_check(bound=False)
    claims = [
        one["persistentVolumeClaim"]["claimName"]
        for one in body["spec"]["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in one
    ]
    assert claims == ["demo"]
    assert (config.output_mounted, config.output_size) == (False, 10 * 2**30)


def test_the_preflight_of_a_search_makes_the_tokens_that_its_trials_share() -> None:
    search = {"parameters": [{"path": "training.seed", "choice": [1, 2]}]}
    config, _ = planned_check(search=search)
    assert config.run.output.token_dir == f"/mnt/output/.finetune/{UID}/tokens"
