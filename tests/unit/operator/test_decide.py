"""A job's life, decision by decision: (job, observation, now) → (status, action, when to look again)."""

from dataclasses import replace

import pytest

from builders import script_job
from finetune_api.resources import ResourcesSpec
from finetune_api.run import RunReport
from finetune_api.status import CheckpointStatus, ConditionType, FineTuneJobStatus, Phase, ProgressStatus
from finetune_core.decide.decision import rejected
from finetune_core.decide.observation import Observation, PodView
from unit.operator.worlds import (
    CREATE,
    DELETE,
    MODEL,
    NOTHING,
    REPORT,
    STOP,
    T0,
    TRAINER,
    Life,
    child,
    condition,
    decide_with,
    ended_pod,
    over,
    parsed,
    pod,
    running_pod,
    seconds,
    seen,
    settings,
    true_conditions,
)


def test_a_newborn_job_opens_attempt_1_in_its_status_and_then_creates_it() -> None:
    life = Life()
    decision = life.reconcile()
    assert (life.phase, life.reason, decision.action) == ("Pending", "Accepted", CREATE)
    assert (life.status.attempt, life.last.number, life.last.start_time) == (1, 1, T0)
    assert life.status.start_time == T0
    assert decision.requeue_at


def test_what_the_defaults_become_is_written_out_with_the_first_attempt() -> None:
    life = Life(parsed(), settings(gpus_per_node=0, requests={"cpu": "2"}))
    life.reconcile()
    effective = life.status.effective
    assert effective
    assert effective.training
    assert effective.training.epochs == 3
    assert effective.resources
    assert effective.resources.gpus_per_node == 0
    assert effective.resources.requests == {"cpu": "2"}
    assert effective.image == TRAINER
    assert effective.output_uri == f"pvc://movie-sentiment-{life.job.uid[:8]}/model"


def test_an_operator_with_other_defaults_does_not_restate_those_of_a_running_attempt() -> None:
    life = Life().running()
    before = life.status
    life.settings = settings(trainer_image="registry.example/trainer:2", gpus_per_node=8)
    decision = life.reconcile(seen(child(), running_pod()), at=60)
    assert decision.status == before
    assert decision.action is NOTHING


def test_the_next_attempt_after_an_upgrade_is_written_with_the_new_defaults() -> None:
    life = Life().running()
    life.settings = settings(trainer_image="registry.example/trainer:2")
    life.reconcile(over(75), at=60)
    assert life.status.effective
    assert life.status.effective.image == "registry.example/trainer:2"


def test_a_job_whose_job_is_not_there_yet_creates_it_again_without_a_new_attempt() -> None:
    life = Life()
    first = life.reconcile()
    again = life.reconcile(at=5)
    assert again.action is CREATE
    assert again.status == first.status


def test_a_job_deleted_before_its_pod_ran_is_made_again_without_counting_anything() -> None:
    life = Life()
    life.reconcile()
    life.reconcile(seen(child(), pod()), at=4)
    decision = life.reconcile(seen(pod(deleted=True)), at=6)
    assert (decision.action, life.status.attempt, life.status.retries) == (CREATE, 1, None)


def test_a_job_deleted_while_its_pod_ran_costs_a_counted_attempt() -> None:
    life = Life().running()
    decision = life.reconcile(seen(running_pod(deleted=True)), at=60)
    ended = life.status.attempts[0]
    assert (ended.reason, ended.counted, life.status.retries) == ("PodLost", True, 1)
    assert (life.status.attempt, decision.action) == (2, CREATE)


def test_nothing_is_made_while_the_pod_of_a_deleted_job_still_runs() -> None:
    life = Life().running()
    decision = life.reconcile(seen(running_pod(deleting=True)), at=60)
    assert (decision.action, life.phase, life.status.attempt) == (NOTHING, "Running", 1)


def test_nothing_is_made_while_a_pod_runs_of_which_the_status_does_not_know_yet() -> None:
    life = Life()
    life.reconcile()
    assert life.reconcile(seen(running_pod(deleting=True)), at=5).action is NOTHING
    assert life.phase == "Running"


def test_a_start_that_takes_as_long_as_starts_do_costs_no_write() -> None:
    life = Life()
    born = life.reconcile().status
    for at, observation in (
        (1, seen(child())),
        (1, seen(child(), pod())),
        (2, seen(child(), pod(node="n1"))),
    ):
        decision = life.reconcile(observation, at=at)
        assert decision.status == born
        assert decision.requeue_at == seconds(3)
    assert life.reconcile(seen(child(), pod(node="n1")), at=3).requeue_at == seconds(30)
    assert life.reconcile(seen(child(), pod(node="n1")), at=30).requeue_at == seconds(90)
    assert life.status == born
    life.reconcile(seen(child(), pod(node="n1")), at=90)
    assert (life.reason, life.message) == ("Starting", "the pod pod-a1 is starting on node n1")


def test_a_visit_that_finds_nothing_new_returns_the_very_status_that_is_stored() -> None:
    life = Life()
    life.reconcile()
    for observation in (seen(child()), seen(child(), pod(node="n1"))):
        assert decide_with(life.job, observation, 5, life.settings).status is life.job.status


def test_a_start_is_looked_at_when_a_step_of_it_takes_longer_than_usual() -> None:
    life = Life()
    born = life.reconcile().status
    created = seen(child(), pod(created=seconds(20)))
    assert life.reconcile(created, at=31).requeue_at == seconds(50)
    scheduled = seen(child(), pod(created=seconds(20), scheduled=seconds(25), node="n1"))
    assert life.reconcile(scheduled, at=50).requeue_at == seconds(55)
    assert life.reconcile(scheduled, at=55).requeue_at == seconds(90)
    assert life.status == born


@pytest.mark.parametrize("created", [80, 7200])
def test_a_start_is_written_after_a_minute_and_a_half_whatever_the_times_of_its_steps(created: int) -> None:
    life = Life()
    born = life.reconcile().status
    observation = seen(child(), pod(created=seconds(created)))
    assert life.reconcile(observation, at=89).requeue_at == seconds(90)
    assert life.status == born
    life.reconcile(observation, at=90)
    assert life.reason == "Starting"


def test_what_follows_in_a_start_that_the_status_tells_of_costs_no_write() -> None:
    life = Life()
    life.reconcile()
    life.reconcile(seen(child()), at=90)
    slow = life.status
    assert life.message.startswith("waiting for the pod of Job")
    created, scheduled = pod(created=seconds(95)), pod(created=seconds(95), scheduled=seconds(140), node="n1")
    assert life.reconcile(seen(child(), created), at=96).requeue_at == seconds(125), "to see what hinders it"
    assert life.reconcile(seen(child(), created), at=125).requeue_at == seconds(185)
    assert life.reconcile(seen(child(), scheduled), at=170).requeue_at == seconds(230)
    assert life.status == slow
    life.reconcile(seen(child(), scheduled), at=230)
    assert life.message == "the pod pod-a1 is starting on node n1"


def test_a_start_that_may_lack_something_says_so_at_once() -> None:
    life = Life(parsed(model={"uri": "hf://org/base", "credentials": {"secretName": "hub"}}))
    life.reconcile()
    scheduled = seen(child(), pod(created=seconds(10), scheduled=seconds(10), node="n1"))
    assert life.reconcile(scheduled, at=12).requeue_at == seconds(40)
    life.reconcile(scheduled, at=40)
    assert "Secret hub" in life.message


def test_each_step_of_a_start_of_five_minutes_is_written() -> None:
    life = Life()
    life.reconcile()
    life.reconcile(seen(child()), at=90)
    late = pod(created=seconds(290), scheduled=seconds(299), node="n1")
    assert life.reconcile(seen(child(), late), at=299).requeue_at == seconds(300)
    life.reconcile(seen(child(), late), at=300)
    assert life.message == "the pod pod-a1 is starting on node n1"


def test_a_hindrance_that_has_gone_is_taken_back_at_once() -> None:
    life = Life()
    life.reconcile()
    life.reconcile(seen(child(), pod(created=seconds(1), unschedulable="0/3 nodes are available")), at=5)
    assert life.reason == "Unschedulable"
    life.reconcile(seen(child(), pod(created=seconds(1), scheduled=seconds(6), node="n1")), at=6)
    assert life.reason == "Starting"


def test_running_says_where_and_records_node_start_and_image() -> None:
    life = Life()
    life.reconcile()
    decision = life.reconcile(seen(child(), running_pod(since=seconds(7), image_id="img@sha256:1")), at=9)
    assert (life.phase, life.message) == ("Running", "attempt 1 trains on node n1")
    assert (life.last.node, life.last.running_time) == ("n1", seconds(7))
    assert life.status.resolved
    assert life.status.resolved.image == "img@sha256:1"
    assert (decision.action, decision.requeue_at) == (NOTHING, None)


def test_of_a_pod_that_ended_before_it_was_seen_to_run_the_image_is_recorded_too() -> None:
    life = Life()
    life.reconcile()
    life.reconcile(seen(child(succeeded=True), ended_pod(0, report=REPORT, image_id="img@sha256:1")), at=9)
    assert life.phase == "Succeeded"
    assert life.status.resolved
    assert life.status.resolved.image == "img@sha256:1"


def test_a_pod_that_ended_is_no_news_before_its_job_has_taken_note() -> None:
    life = Life().running()
    before = life.status
    decision = life.reconcile(seen(child(), ended_pod(70, message="a bug")), at=60)
    assert decision.status == before
    assert decision.action is NOTHING
    assert decision.requeue_at


@pytest.mark.parametrize(
    ("end", "phase"),
    [
        pytest.param(ended_pod(0, report=REPORT), Phase.SUCCEEDED, id="a model"),
        pytest.param(
            ended_pod(77, report=RunReport(exit_code=77, message="others are better")),
            Phase.FAILED,
            id="pruned",
        ),
    ],
)
def test_an_end_that_no_attempt_follows_does_not_wait_for_its_job(end: PodView, phase: Phase) -> None:
    life = Life().running()
    assert life.reconcile(seen(child(), end), at=60).status.phase is phase
    ended = life.status
    life.reconcile(seen(child(succeeded=True), end), at=61)
    assert life.status == ended


def test_a_success_counts_though_a_container_beside_it_runs_on_and_then_the_job_is_deleted() -> None:
    life = Life().running()
    beside = ended_pod(0, report=REPORT, phase="Running", companions=("istio-proxy",))
    life.reconcile(seen(child(), beside), at=60)
    assert (life.phase, life.reason) == ("Succeeded", "Succeeded")
    assert life.reconcile(seen(child(), beside), at=61).action is STOP
    stopping = replace(beside, deleting=True)
    assert life.reconcile(seen(child(deleting=True), stopping), at=62).action is NOTHING


@pytest.mark.parametrize("code", [0, 70])
def test_a_pod_whose_only_container_has_ended_is_awaited_and_its_job_is_not_deleted(code: int) -> None:
    """Its phase follows a moment later."""
    life = Life().running()
    ending = ended_pod(code, report=REPORT if code == 0 else None, phase="Running")
    for at in (60, 61):
        assert life.reconcile(seen(child(), ending), at=at).action is NOTHING
    over = replace(ending, phase="Succeeded" if code == 0 else "Failed")
    end = life.reconcile(seen(child(succeeded=code == 0, failed=code != 0), over), at=62)
    assert (end.action, life.last.exit_code) == (NOTHING, code)


def test_after_a_failure_beside_a_container_that_runs_on_the_next_attempt_waits_until_that_one_is_gone() -> (
    None
):
    life = Life(settings=settings(retry_backoff=0)).running()
    beside = ended_pod(70, message="a bug", phase="Running", companions=("istio-proxy",))
    assert life.reconcile(seen(child(), beside), at=60).action is DELETE
    assert (life.last.reason, life.status.attempt) == ("TrainerFault", 1)
    assert "Job job-a1 of an attempt that has ended to be gone" in life.message
    assert life.reconcile(at=70).action is CREATE
    assert life.status.attempt == 2


@pytest.mark.parametrize(("skew", "ran"), [(-7200, 70), (0, 65), (7200, 65)])
def test_a_node_with_a_wrong_clock_does_not_change_the_deadline(skew: int, ran: int) -> None:
    life = Life(parsed(activeDeadlineSeconds=60))
    life.reconcile(at=0)
    runs = running_pod(since=seconds(5 + skew), created=seconds(0))
    life.reconcile(seen(child(), runs), at=5)
    life.reconcile(seen(child(), runs), at=50)
    assert life.phase == "Running"
    life.reconcile(seen(child(), runs), at=66)
    assert "stops (spec.activeDeadlineSeconds)" in life.message
    life.reconcile(seen(ended_pod(75, deleted=True, at=seconds(70 + skew))), at=70)
    used = life.status.usage
    assert used
    assert (used.gpu_seconds, life.status.active_seconds) == (ran, ran)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(pod(phase="Succeeded", started=T0), id="no code"),
    ],
)
def test_an_end_that_is_not_certain_waits(end: PodView) -> None:
    life = Life().running()
    assert life.reconcile(seen(child(), end), at=60).status.completion_time is None


def progress(step: int, attempt: int = 1) -> RunReport:
    return RunReport(attempt=attempt, progress=ProgressStatus(step=step, total_steps=100, percent=step))


def test_progress_is_written_at_once_and_then_once_per_interval() -> None:
    life = Life(settings=settings(progress_interval=10)).running()
    observe = (child(), running_pod())

    life.reconcile(seen(*observe, report=progress(1), at=seconds(20)), at=20)
    assert life.status.progress
    assert life.status.progress.step == 1

    soon = life.reconcile(seen(*observe, report=progress(2), at=seconds(24)), at=24)
    assert soon.requeue_at == seconds(30)
    assert life.status.progress.step == 1

    life.reconcile(seen(*observe, report=progress(3), at=seconds(28)), at=30)
    assert life.status.progress.step == 3
    assert life.status.display
    assert life.status.display.progress == "3%"
    assert life.last.to_step == 3

    again = life.reconcile(seen(*observe, report=progress(3), at=seconds(28)), at=60)
    assert again.requeue_at is None
    assert life.status.progress.step == 3


def test_progress_of_many_jobs_is_written_less_often() -> None:
    life = Life(settings=settings(progress_interval=10)).running()
    observe = (child(), running_pod(since=seconds(0)))
    life.reconcile(seen(*observe, report=progress(1), at=seconds(20)), at=20)
    newer = seen(*observe, report=progress(2), at=seconds(31))
    soon = life.reconcile(replace(newer, jobs_reporting=1000), at=31)
    assert life.status.progress.step == 1
    assert soon.requeue_at == seconds(32.5)
    life.reconcile(replace(newer, jobs_reporting=800), at=31)
    assert life.status.progress.step == 2


def test_a_report_of_the_attempt_before_is_not_the_next_one_s_progress() -> None:
    life = Life(settings=settings(retry_backoff=0)).running()
    life.reconcile(over(70), at=50)
    late = progress(90)
    life.reconcile(seen(child(1, failed=True), child(2), running_pod(2), report=late, at=seconds(49)), at=55)
    assert life.status.progress is None
    assert life.last.to_step is None
    life.reconcile(
        seen(child(2, failed=True), ended_pod(70, 2), report=late, at=seconds(49)),
        at=56,
    )
    assert [attempt.to_step for attempt in life.status.attempts[:2]] == [None, None]


def test_success_records_the_model_once_and_ends_the_job() -> None:
    life = Life().running()
    decision = life.reconcile(over(0, report=REPORT, at=seconds(50)), at=60)
    assert (life.phase, life.reason, decision.action) == ("Succeeded", "Succeeded", NOTHING)
    assert life.status.model
    assert life.status.model.digest == MODEL.digest
    assert life.status.completion_time == seconds(60)
    assert (life.last.reason, life.last.exit_code, life.last.counted) == ("Succeeded", 0, False)
    assert life.last.end_time == seconds(50)
    assert life.status.active_seconds == 50


def test_the_model_s_uri_is_the_operator_s_to_say() -> None:
    life = Life(parsed(output={"uri": "pvc://models/mine"})).running()
    life.reconcile(over(0, report=REPORT), at=60)
    assert life.status.model
    assert life.status.model.uri == "pvc://models/mine"


def test_exit_0_without_a_model_is_a_failure_that_no_retry_cures() -> None:
    life = Life().running()
    life.reconcile(over(0, message="done"), at=60)
    assert (life.phase, life.reason) == ("Failed", "Unknown")
    assert "spec.image is not a trainer image of this version" in life.message


def test_a_script_of_one_s_own_succeeds_with_an_unverified_model() -> None:
    life = Life(parsed(script_job(output={"uri": "pvc://models/mine"}))).running()
    life.reconcile(over(0), at=60)
    assert life.phase == "Succeeded"
    assert life.status.model
    assert (life.status.model.uri, life.status.model.format) == ("pvc://models/mine", "Unverified")
    assert life.status.model.digest is None


def test_the_report_of_a_newer_trainer_is_read_as_far_as_it_is_known() -> None:
    life = Life().running()
    message = (
        '{"exitCode": 0, "hologram": {"x": 1},'
        ' "model": {"uri": "pvc://a/b", "format": "safetensors", "smell": "good"}}'
    )
    life.reconcile(over(0, message=message), at=60)
    assert life.phase == "Succeeded"


def test_the_report_of_another_version_of_the_contract_is_not_believed() -> None:
    life = Life().running()
    life.reconcile(over(0, message='{"version": 2, "model": {"uri": "pvc://a/b", "format": "x"}}'), at=60)
    assert life.phase == "Failed"


@pytest.mark.parametrize("state", ["newborn", "pending", "running", "waiting to retry"])
def test_suspend_leads_to_suspended_from_everywhere(state: str) -> None:
    life = Life()
    observation = Observation()
    if state != "newborn":
        life.reconcile()
        observation = seen(child(), pod())
    if state in ("running", "waiting to retry"):
        observation = seen(child(), running_pod())
        life.reconcile(observation, at=4)
    if state == "waiting to retry":
        observation = over(70)
        life.reconcile(observation, at=5)
    life.change(suspend=True)

    decision = life.reconcile(observation, at=6)
    if state in ("pending", "running"):
        assert (decision.action, life.reason, life.phase) == (STOP, "Stopping", "Pending")
        deleted = replace(observation.pods[0], deleted=True)
        decision = life.reconcile(seen(deleted), at=8)
        assert (life.last.reason, life.last.counted) == ("Suspended", False)
    assert (life.phase, life.reason, decision.action) == ("Suspended", "Suspended", NOTHING)
    assert decision.requeue_at is None

    life.change(suspend=False)
    decision = life.reconcile(at=1000)
    assert (life.phase, decision.action) == ("Pending", CREATE)
    assert life.status.attempt == (1 if state == "newborn" else 2)


def test_a_pod_that_a_finalizer_keeps_after_its_end_is_said_to_be_kept() -> None:
    life = Life().running()
    life.change(suspend=True)
    stopped = ended_pod(75, deleting=True, deletion=seconds(60))
    life.reconcile(seen(child(deleting=True), stopped), at=89)
    assert life.message == "attempt 1 saves a checkpoint and stops (spec.suspend)"
    life.reconcile(seen(child(deleting=True), stopped), at=90)
    assert (life.phase, life.reason) == ("Pending", "Stopping")
    assert (
        "attempt 1 has stopped (spec.suspend), and a finalizer keeps its pod; kubectl get pod pod-a1"
        in life.message
    )
    life.reconcile(seen(replace(stopped, deleted=True)), at=100)
    assert life.phase == "Suspended"


def test_a_pod_that_runs_on_without_its_job_is_named_when_it_is_to_stop() -> None:
    life = Life().running()
    life.change(suspend=True)
    left = running_pod(orphaned=True)
    life.reconcile(seen(left), at=20)
    assert (life.phase, life.reason) == ("Pending", "Stopping")
    assert life.message == (
        "attempt 1 is to stop (spec.suspend), but the pod pod-a1 runs on without its Job, which somebody deleted with"
        " --cascade=orphan; kubectl delete pod pod-a1 -n default stops it"
    )
    life.reconcile(seen(replace(left, deleting=True)), at=30)
    assert life.message == "attempt 1 saves a checkpoint and stops (spec.suspend)"


def test_the_number_of_the_open_attempt_that_somebody_edits_is_written_again() -> None:
    """Its Job is stopped, and its reports are read, by this number."""
    life = Life().running()
    life.store(life.status.model_copy(update={"attempt": 7}))
    life.change(suspend=True)
    assert life.reconcile(seen(child(), running_pod()), at=5).action is STOP
    assert life.status.attempt == 1


def test_a_stop_that_was_begun_is_carried_out_though_suspend_was_taken_back() -> None:
    life = Life().running()
    life.change(suspend=True).reconcile(seen(child(), running_pod()), at=5)
    life.change(suspend=False)
    assert life.reconcile(seen(child(deleting=True), running_pod(deleting=True)), at=6).action is STOP
    decision = life.reconcile(seen(ended_pod(75, deleted=True)), at=7)
    assert [attempt.reason for attempt in life.status.attempts] == ["Suspended", None]
    assert (decision.action, life.status.attempt, life.status.retries) == (CREATE, 2, None)


def test_a_script_that_ends_with_0_when_told_to_stop_is_suspended_and_not_finished() -> None:
    life = Life(parsed(script_job())).running()
    life.change(suspend=True).reconcile(seen(child(), running_pod()), at=5)
    life.reconcile(seen(child(deleting=True), ended_pod(0)), at=7)
    assert life.last.end_time is None, "another attempt may follow, and no two Jobs of it live at a time"
    life.reconcile(over(0), at=8)
    assert (life.phase, life.last.reason, life.last.counted) == ("Suspended", "Suspended", False)
    assert life.status.model is None


def test_suspended_before_its_job_was_made_makes_none() -> None:
    life = Life()
    life.reconcile()
    life.change(suspend=True)
    decision = life.reconcile(at=1)
    assert (life.phase, decision.action, life.last.reason) == ("Suspended", NOTHING, "Suspended")


def test_training_that_ends_well_while_it_is_stopped_has_ended_well() -> None:
    life = Life().running()
    life.change(suspend=True).reconcile(seen(child(), running_pod()), at=5)
    life.reconcile(seen(ended_pod(0, report=REPORT, deleted=True)), at=7)
    assert life.phase == "Succeeded"


def test_the_deadline_counts_running_time_of_all_attempts_and_no_other() -> None:
    life = Life(parsed(activeDeadlineSeconds=100), settings(retry_backoff=1)).running()
    life.reconcile(over(70, at=seconds(60)), at=60)  # 60 s used
    life.change(suspend=True).reconcile(at=61)
    life.change(suspend=False).reconcile(at=5000)  # suspended time is free
    life.reconcile(seen(child(2), pod(2)), at=6000)  # queued time is free
    decision = life.reconcile(seen(child(2), running_pod(2, since=seconds(7000))), at=7000)
    assert (life.phase, decision.requeue_at) == ("Running", seconds(7040))

    decision = life.reconcile(seen(child(2), running_pod(2, since=seconds(7000))), at=7040)
    assert (decision.action, life.last.reason) == (STOP, "DeadlineExceeded")
    life.reconcile(seen(ended_pod(75, 2, deleted=True, at=seconds(7045), started=seconds(7000))), at=7046)
    assert (life.phase, life.reason) == ("Failed", "DeadlineExceeded")
    assert life.status.active_seconds == 105
    assert "activeDeadlineSeconds of 100" in life.message


def test_a_longer_deadline_given_in_time_lets_the_job_go_on() -> None:
    life = Life(parsed(activeDeadlineSeconds=100)).running()
    life.change(active_deadline_seconds=500)
    decision = life.reconcile(seen(child(), running_pod()), at=150)
    assert (life.phase, decision.requeue_at) == ("Running", seconds(500))


@pytest.mark.parametrize("limit", [500, None])
def test_a_longer_deadline_given_while_it_stops_begins_another_attempt(limit: int | None) -> None:
    life = Life(parsed(activeDeadlineSeconds=100)).running()
    assert life.reconcile(seen(child(), running_pod()), at=100).action is STOP
    life.change(active_deadline_seconds=limit)
    stopped = seen(ended_pod(75, deleted=True, at=seconds(105)))
    assert life.reconcile(stopped, at=106).action is CREATE
    assert [(one.reason, one.counted) for one in life.status.attempts] == [
        ("DeadlineExceeded", False),
        (None, None),
    ]


def test_resources_that_changed_before_anybody_saw_the_job_suspended_are_said_not_to_be_used() -> None:
    life = Life(parsed(resources={"gpusPerNode": 1, "requests": {"cpu": "2"}})).running()
    assert "changed" not in life.message
    life.change(resources=ResourcesSpec(gpus_per_node=4, requests={"cpu": "8"}))
    life.reconcile(seen(child(), running_pod()), at=10)
    assert life.message == (
        "attempt 1 trains on node n1; spec.resources (gpusPerNode, requests) was changed after it began: suspend the"
        " job until it is Suspended, and resume it"
    )
    life.change(suspend=True).reconcile(seen(child(), running_pod()), at=20)
    life.reconcile(seen(ended_pod(75, deleted=True, at=seconds(25))), at=26)
    life.change(suspend=False).reconcile(at=30)
    life.reconcile(seen(child(2), running_pod(2, since=seconds(31))), at=31)
    assert life.message == "attempt 2 trains on node n1"


def test_a_script_s_status_names_the_script_image() -> None:
    life = Life(parsed(script_job()), settings(script_image="registry.example/script:1")).running()
    assert life.status.effective.image == "registry.example/script:1"


def test_an_image_that_is_not_allowed_fails_before_anything_is_made() -> None:
    life = Life(parsed(image="docker.example/evil:1"), settings(allowed_images=["registry.example/*"]))
    decision = life.reconcile()
    assert (life.phase, life.reason, decision.action) == ("Failed", "ImageNotAllowed", NOTHING)
    assert "docker.example/evil:1" in life.message
    assert "registry.example/*" in life.message
    assert life.status.attempt is None


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        (TRAINER, True),
        ("docker.example/script:1", True),
        ("docker.example/script:2", False),
        ("registry.example/team/trainer:3", True),
        ("registry.example/team/sub/trainer:3", False),
        ("registry.example.evil/team/trainer:3", False),
        ("registry.example/team/other", False),
    ],
)
def test_a_pattern_s_star_ends_at_a_slash(image: str, *, allowed: bool) -> None:
    given = settings(allowed_images=["registry.example/*/trainer*"], script_image="docker.example/script:1")
    life = Life(parsed(image=image), given)
    life.reconcile()
    assert (life.phase != "Failed") is allowed


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        ("registry.example/team-*/*:v?", True),
        ("registry.example/*-a/tr*er*", True),
        ("registry.example/team-[ab]/trainer:v1", True),
        ("registry.example/team-[!a]/trainer:v1", False),
        ("registry.example/*/trainer", False),
        ("REGISTRY.example/*/*", False),
        ("*", False),
    ],
)
def test_an_allowed_image_is_a_shell_pattern(pattern: str, *, allowed: bool) -> None:
    life = Life(parsed(image="registry.example/team-a/trainer:v1"), settings(allowed_images=[pattern]))
    life.reconcile()
    assert (life.phase != "Failed") is allowed


def finished(code: int = 0, **spec: object) -> Life:
    life = Life(parsed(**spec)).running()
    life.reconcile(over(code, report=REPORT if code == 0 else None), at=60)
    return life


@pytest.mark.parametrize("code", [0, 65])
@pytest.mark.parametrize(
    "observation",
    [Observation(), over(70), seen(child(), running_pod()), seen(child(2), running_pod(2)), seen(pod(3))],
    ids=["children deleted", "job failed", "job runs again", "a stranger's attempt", "a pod reappears"],
)
@pytest.mark.parametrize("suspend", [True, False])
def test_a_finished_job_is_finished(code: int, observation: Observation, *, suspend: bool) -> None:
    life = finished(code)
    before = life.status
    life.change(suspend=suspend)
    decision = life.reconcile(observation, at=9999)
    assert decision.action is NOTHING
    assert replace_generation(decision.status, 1) == before


def replace_generation(status: FineTuneJobStatus, generation: int) -> FineTuneJobStatus:
    conditions = [one.model_copy(update={"observed_generation": generation}) for one in status.conditions]
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions})


def test_a_change_of_a_finished_job_is_seen_or_tools_that_wait_would_wait_for_ever() -> None:
    life = finished()
    life.change(ttl_seconds_after_finished=5).reconcile(at=61)
    assert life.status.observed_generation == 2
    assert {one.observed_generation for one in life.status.conditions} == {2}
    assert life.phase == "Succeeded"


def test_the_children_of_a_finished_job_go_when_their_time_has_come() -> None:
    life = finished(ttlSecondsAfterFinished=100)
    job = child(succeeded=True)
    early = life.reconcile(seen(job), at=159)
    assert (early.action, early.requeue_at) == (NOTHING, seconds(160))
    assert life.reconcile(seen(job), at=160).action is DELETE
    assert life.reconcile(at=161).action is NOTHING


def test_without_a_ttl_children_stay() -> None:
    decision = finished().reconcile(seen(child(succeeded=True)), at=10**8)
    assert (decision.action, decision.requeue_at) == (NOTHING, None)


def test_a_spec_that_cannot_be_understood_is_stalled_and_recovers() -> None:
    job = parsed()
    status = rejected(job.status, 1, "spec.model: what is this", T0)
    assert true_conditions(status) == {"Stalled"}
    assert (status.phase, status.completion_time) == (Phase.PENDING, None)
    assert condition(status, ConditionType.STALLED).message == "spec.model: what is this"

    life = Life(replace(job, status=status, generation=2))
    assert life.reconcile(at=9).action is CREATE
    assert true_conditions(life.status) == {"Reconciling"}


def test_an_operator_that_cannot_read_the_spec_of_a_finished_job_leaves_it_as_it_ended() -> None:
    life = finished()
    assert rejected(life.status, 2, "spec.hologram: unknown", T0) == life.status


def test_attempts_that_a_restored_status_forgot_are_gone_on_from_not_beside() -> None:
    life = Life()
    decision = life.reconcile(seen(child(3), running_pod(3)))
    assert (decision.action, life.status.attempt) == (CREATE, 3)
    life.reconcile(seen(child(3), running_pod(3)), at=1)
    assert (life.phase, life.status.attempt) == ("Running", 3)


def test_an_older_attempt_that_the_status_forgot_is_stopped_before_the_next_begins() -> None:
    life = Life()
    life.job = replace(life.job, status=FineTuneJobStatus(attempt=7))
    decision = life.reconcile(seen(child(2), running_pod(2)))
    assert (decision.action, life.reason, life.status.attempt) == (DELETE, "Stopping", 7)
    decision = life.reconcile(seen(running_pod(2, deleted=True)), at=1)
    assert (decision.action, life.status.attempt) == (CREATE, 8)


def test_resources_changed_while_suspended_are_those_of_the_next_attempt() -> None:
    life = Life().running()
    life.change(suspend=True).reconcile(seen(child(), running_pod()), at=5)
    life.reconcile(seen(ended_pod(75, deleted=True)), at=7)
    life.change(resources=ResourcesSpec(gpus_per_node=2)).reconcile(at=8)
    life.change(suspend=False).reconcile(at=9)
    assert life.status.effective
    assert life.status.effective.resources
    assert life.status.effective.resources.gpus_per_node == 2


def test_the_newest_twenty_attempts_are_kept() -> None:
    life = Life(parsed(retry={"limit": 100}), settings(retry_backoff=0)).running()
    for number in range(1, 26):
        life.reconcile(over(70, number), at=number * 2)
        life.reconcile(at=number * 2 + 1)
    assert life.status.attempt == 26
    assert [attempt.number for attempt in life.status.attempts] == list(range(7, 27))


def test_checkpoints_of_the_reports_stay_when_a_later_report_says_nothing_of_them() -> None:
    life = Life().running()
    best = RunReport(best=CheckpointStatus(step=40, metric="eval_loss", value=0.4), progress=ProgressStatus())
    life.reconcile(seen(child(), running_pod(), report=best, at=seconds(20)), at=20)
    life.reconcile(over(0, report=REPORT), at=60)
    assert life.status.best_checkpoint
    assert life.status.best_checkpoint.step == 40


def test_the_same_question_has_the_same_answer() -> None:
    job = parsed()
    observation = seen(child(), running_pod())
    assert decide_with(job, observation, 0) == decide_with(job, observation, 0)


def test_a_number_that_no_label_can_carry_is_the_end_and_says_so() -> None:
    life = Life()
    decision = life.reconcile(seen(child(99_999, failed=True)))
    assert life.status.attempt == 99_999
    assert decision.action is CREATE
    life.reconcile(over(75, 99_999), at=5)
    assert (life.phase, life.status.attempt) == ("Failed", 99_999)
    assert "create a new FineTuneJob" in life.message
