"""What follows a failure: where the next attempt runs, with what, how often, and what that used."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders import UID, script_job
from finetune_api.resources import ResourcesSpec
from finetune_api.run import ReachedStep, RunReport
from finetune_api.status import AttemptStatus, CheckpointStatus, EffectiveStatus, ProgressStatus
from finetune_core.decide.observation import InputView, Observation
from finetune_core.plan.effective import resolve
from finetune_core.plan.workload import plan
from unit.operator.worlds import (
    CREATE,
    DELETE,
    NOTHING,
    REPORT,
    STOP,
    Life,
    child,
    ended_pod,
    over,
    parsed,
    pod,
    run_json,
    running_pod,
    seconds,
    seen,
    settings,
)

LOST = {"deleting": True, "deletion": seconds(20)}


def fast(**spec: Any) -> Life:
    """A job that is retried without pauses."""
    return Life(parsed(retry={"limit": 9}, **spec), settings(retry_backoff=0))


def attempt_runs(life: Life, at: float, node: str = "n1") -> int:
    number = life.status.attempt
    assert number
    life.reconcile(seen(child(number), running_pod(number, since=seconds(at), node=node)), at=at)
    return number


def fails(life: Life, code: int, node: str, at: float, **fields: Any) -> None:
    """The next attempt runs on a node and ends with a code."""
    number = attempt_runs(life, at, node)
    life.reconcile(over(code, number, node=node, **fields), at=at + 1)
    life.reconcile(at=at + 2)


def affinity(life: Life) -> dict[str, Any]:
    """Of the next attempt's pod, as JSON."""
    made = plan(life.job, resolve(life.job, life.settings), 9, life.settings, "ca").job
    found: dict[str, Any] = made["spec"]["template"]["spec"].get("affinity", {}).get("nodeAffinity", {})
    return found


def report(step: int, **fields: Any) -> RunReport:
    return RunReport(progress=ProgressStatus(step=step, total_steps=1000, percent=step // 10, **fields))


def test_an_attempt_on_a_node_that_does_not_answer_is_closed_and_the_next_starts_beside_its_pod() -> None:
    life = Life().running()
    stuck = running_pod(**LOST)
    early = life.reconcile(seen(child(), stuck), at=40)
    assert (life.phase, life.reason, early.requeue_at) == ("Running", "Stopping", seconds(50))
    assert "node n1 counts as lost" in life.message
    assert life.reconcile(seen(child(), stuck), at=50).action is DELETE
    assert (life.last.reason, life.last.counted) == ("NodeLost", False)
    assert life.reconcile(seen(child(deleting=True), stuck), at=51).action is CREATE
    assert life.status.attempt == 2
    assert life.reconcile(seen(child(deleting=True), stuck, child(2)), at=52).action is NOTHING


def test_a_pod_is_asked_to_leave_a_node_that_does_not_answer_in_time_to_save() -> None:
    life = Life(settings=settings(node_lost_seconds=400))
    made = plan(life.job, resolve(life.job, life.settings), 1, life.settings, "ca").job
    tolerations = made["spec"]["template"]["spec"]["tolerations"]
    assert {one["key"]: one["tolerationSeconds"] for one in tolerations} == {
        "node.kubernetes.io/not-ready": 250,
        "node.kubernetes.io/unreachable": 250,
    }


def test_a_volume_that_may_still_be_attached_to_a_lost_node_is_named() -> None:
    life = Life().running()
    life.reconcile(seen(running_pod(deleted=True, disruption="DeletionByTaintManager")), at=10)
    claim = InputView("PersistentVolumeClaim", "demo", exists=True, access_modes=("ReadWriteOnce",))
    waits = pod(2, node="n2", scheduled=seconds(12))
    life.reconcile(seen(child(2), waits, claim), at=60)
    assert "the claim demo is ReadWriteOnce, and its volume may still be attached to node n1" in life.message


def test_a_node_with_two_of_three_failures_is_excluded_for_a_day() -> None:
    life = fast()
    life.reconcile(at=0)
    for at, (code, node) in enumerate([(139, "bad"), (134, "good"), (137, "bad")]):
        assert life.status.excluded_nodes == []
        fails(life, code, node, 10 * at)
    (excluded,) = life.status.excluded_nodes
    assert (excluded.node, excluded.until) == ("bad", seconds(21) + timedelta(days=1))
    (term,) = affinity(life)["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchFields"] == [{"key": "metadata.name", "operator": "NotIn", "values": ["bad"]}]
    attempt_runs(life, 50, "good")
    life.reconcile(over(75, 4), at=90_000)
    assert life.status.excluded_nodes == []


def test_the_only_node_that_is_known_is_avoided_and_not_excluded() -> None:
    life = fast()
    life.reconcile(at=0)
    fails(life, 139, "only", 0)
    fails(life, 134, "only", 10)
    assert [one.node for one in life.status.excluded_nodes] == ["only"]
    found = affinity(life)
    assert list(found) == ["preferredDuringSchedulingIgnoredDuringExecution"]


def test_a_users_script_that_fails_twice_on_a_node_does_not_exclude_it() -> None:
    life = Life(parsed(script_job()), settings(retry_backoff=0))
    life.reconcile(at=0)
    fails(life, 1, "n1", 0)
    fails(life, 1, "n1", 10)
    assert life.status.excluded_nodes == []


def test_a_pod_that_used_too_much_memory_is_retried_once_with_half_the_micro_batch() -> None:
    life = fast(training={"batchSize": 32, "microBatchSize": 8})
    life.reconcile(at=0)
    fails(life, 137, "n1", 0, end_reason="OOMKilled", memory_limit="512Mi")
    assert "micro-batches of 4 instead of 8" in str(life.status.attempts[0].message)
    assert life.last.micro_batch_size == 4
    made = plan(life.job, resolve(life.job, life.settings), 2, life.settings, "ca")
    assert run_json(made)["devices"]["maxMicroBatchSize"] == 4
    number = attempt_runs(life, 20)
    seen_peak = replace(
        seen(child(number), running_pod(number, since=seconds(20))),
        report=report(3, host_memory_bytes=500 * 2**20).model_copy(update={"attempt": number}),
        report_time=seconds(21),
    )
    life.reconcile(seen_peak, at=21)
    life.reconcile(over(137, number, end_reason="OOMKilled", memory_limit="512Mi"), at=30)
    assert (life.phase, life.reason) == ("Failed", "HostOutOfMemory")
    assert "memory limit of 512Mi and was killed with micro-batches of 4" in life.message
    assert "peak was 500 MiB; set spec.resources.limits.memory: 768Mi" in life.message


def test_what_was_halved_stays_halved_after_another_failure() -> None:
    life = fast(training={"batchSize": 32, "microBatchSize": 8})
    life.reconcile(at=0)
    fails(life, 137, "n1", 0, end_reason="OOMKilled")
    fails(life, 75, "n1", 10)
    assert (life.status.attempt, life.last.micro_batch_size) == (3, 4)


def test_with_micro_batches_of_one_example_nothing_can_be_halved() -> None:
    life = fast(training={"batchSize": 32, "microBatchSize": 1})
    life.reconcile(at=0)
    fails(life, 137, "n1", 0, end_reason="OOMKilled", memory_limit="6Gi")
    assert (life.phase, life.reason) == ("Failed", "HostOutOfMemory")
    assert "set spec.resources.limits.memory: 9Gi" in life.message


@pytest.mark.parametrize(
    ("code", "fields"),
    [(139, {}), (79, {"message": "no step"}), (1, {})],
    ids=["crash", "stall", "unknown"],
)
def test_the_same_failure_at_the_same_step_twice_is_not_retried(code: int, fields: dict[str, Any]) -> None:
    life = fast()
    life.reconcile(at=0)
    for at in (0, 10):
        number = attempt_runs(life, at, f"n{at}")
        progress = report(40).model_copy(update={"attempt": number})
        end = ended_pod(code, number, **fields)
        life.reconcile(seen(child(number, failed=True), end, report=progress, at=seconds(at)), at=at + 1)
    assert life.phase == "Failed"
    assert "attempts 1 and 2 failed the same way at the same step; not retried" in life.message


def test_what_comes_from_outside_may_happen_twice_at_the_same_step() -> None:
    life = fast()
    life.reconcile(at=0)
    for at in (0, 10):
        number = attempt_runs(life, at)
        progress = report(40).model_copy(update={"attempt": number})
        end = ended_pod(137, number)
        life.reconcile(seen(child(number, failed=True), end, report=progress, at=seconds(at)), at=at + 1)
    assert (life.phase, life.status.attempt) == ("Pending", 3)


def test_a_job_that_ran_well_for_hours_has_all_its_retries_again() -> None:
    life = Life(parsed(retry={"limit": 1}), settings(retry_backoff=0))
    life.reconcile(at=0)
    fails(life, 139, "n1", 0)
    fails(life, 134, "n2", 30_000)
    assert (life.phase, life.status.attempt, life.status.retries) == ("Pending", 3, 1)
    fails(life, 136, "n3", 30_100)
    assert (life.phase, life.reason) == ("Failed", "Crashed")
    assert "spec.retry.limit of 1 reached" in life.message


def test_a_window_of_the_jobs_own_counts_failures_for_longer() -> None:
    life = Life(parsed(retry={"limit": 1, "windowSeconds": 86_400}), settings(retry_backoff=0))
    life.reconcile(at=0)
    fails(life, 139, "n1", 0)
    fails(life, 134, "n2", 30_000)
    assert life.phase == "Failed"


WAITS = {
    "image": pod(node="n1", scheduled=seconds(100), waiting_reason="ImagePullBackOff"),
    "secret": pod(node="n1", scheduled=seconds(100), waiting_reason="CreateContainerConfigError"),
    "volume": pod(node="n1", scheduled=seconds(100)),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_is_missing_for_too_long_fails_the_job_with_the_sentence(name: str) -> None:
    life = Life(settings=settings(startup_deadline=600))
    life.reconcile(at=0)
    life.reconcile(seen(child(), WAITS[name]), at=699)
    assert life.phase == "Pending"
    sentence = life.message
    assert life.reconcile(seen(child(), WAITS[name]), at=700).action is STOP
    life.reconcile(seen(replace(WAITS[name], deleted=True)), at=701)
    assert (life.phase, life.reason) == ("Failed", "StartupDeadlineExceeded")
    assert life.message == f"{sentence} (not running after 600 s, the administrator's limit)"
    assert life.reconcile(at=702).action is NOTHING


def test_a_pod_may_wait_for_a_node_for_as_long_as_it_takes_unless_the_job_says_otherwise() -> None:
    waits = seen(child(), pod(unschedulable="0/3 nodes are available"))
    life = Life(settings=settings(startup_deadline=60))
    life.reconcile(at=0)
    life.reconcile(waits, at=100_000)
    assert (life.phase, life.reason) == ("Pending", "Unschedulable")
    strict = Life(parsed(startupDeadlineSeconds=60))
    strict.reconcile(at=0)
    assert strict.reconcile(waits, at=60).action is STOP
    strict.reconcile(at=61)
    assert "0/3 nodes are available (not running after 60 s, spec.startupDeadlineSeconds)" in strict.message


@pytest.mark.parametrize(
    ("kind", "end", "node"), [("ConfigMap", "-a1", "n1"), ("PersistentVolumeClaim", "", None)]
)
def test_what_the_operator_made_is_made_again_if_it_was_deleted_before_the_pod_had_it(
    kind: str, end: str, node: str | None
) -> None:
    life = Life()
    life.reconcile(at=0)
    gone = InputView(kind, f"{life.job.name}-{life.job.uid[:8]}{end}", exists=False)
    assert life.reconcile(seen(child(), pod(node=node), gone), at=20).action is CREATE


def test_a_claim_that_the_user_names_is_the_user_s_to_make() -> None:
    life = Life(parsed(output={"uri": f"pvc://movie-sentiment-{UID[:8]}/model"}))
    life.reconcile(at=0)
    gone = InputView("PersistentVolumeClaim", f"movie-sentiment-{UID[:8]}", exists=False)
    assert life.reconcile(seen(child(), pod(), gone), at=20).action is NOTHING
    assert life.reason == "MissingObject"


def test_what_a_job_uses_is_counted_once_however_often_it_is_looked_at() -> None:
    life = Life(parsed(resources={"gpusPerNode": 4}), settings(retry_backoff=0))
    life.reconcile(at=0)
    life.reconcile(seen(child(), running_pod(since=seconds(30))), at=30)
    for at in (50, 60):
        progress = report(10 * at, train_seconds=at - 40).model_copy(update={"attempt": 1})
        ran = seen(child(), running_pod(since=seconds(30)), report=progress, at=seconds(at))
        life.reconcile(ran, at=at)
        before = life.status
        life.reconcile(ran, at=at + 1)
        assert life.status == before
    assert life.status.usage
    assert life.status.usage.to_json() == {
        "gpuSeconds": 120,
        "usefulGpuSeconds": 80,
        "queuedSeconds": 30,
        "goodput": 0.6667,
    }
    saved = RunReport(exit_code=75, latest=CheckpointStatus(step=450), progress=report(600).progress)
    life.reconcile(over(75, report=saved, at=seconds(70)), at=71)
    first = life.status.attempts[0]
    assert (first.gpu_seconds, first.lost_steps, first.to_step) == (160, 150, 600)
    resumed = RunReport(attempt=2, from_step=450, progress=ProgressStatus(step=460, train_seconds=16))
    runs = running_pod(2, since=seconds(81))
    life.reconcile(seen(child(2), runs, report=resumed, at=seconds(91)), at=91)
    assert life.status.usage.gpu_seconds == 200
    assert life.status.usage.queued_seconds == 40
    assert life.status.usage.useful_gpu_seconds == 64


def test_useful_time_of_attempts_with_other_numbers_of_gpus_is_by_their_mean() -> None:
    life = Life(parsed(resources={"gpusPerNode": 4}), settings(retry_backoff=0)).running()
    first = RunReport(
        exit_code=75, latest=CheckpointStatus(step=500), progress=report(500, train_seconds=100).progress
    )
    life.change(resources=ResourcesSpec(gpus_per_node=1))
    life.reconcile(over(75, report=first, at=seconds(100)), at=100)
    ran = seen(child(2), running_pod(2, since=seconds(101)))
    life.reconcile(ran, at=101)
    progress = report(1000, train_seconds=200).model_copy(update={"attempt": 2})
    life.reconcile(replace(ran, report=progress, report_time=seconds(201)), at=201)
    usage = life.status.usage
    assert usage
    assert (usage.gpu_seconds, usage.useful_gpu_seconds, usage.goodput) == (500, 500, 1.0)


def test_the_wait_of_an_attempt_that_never_ran_is_time_in_queues() -> None:
    life = Life()
    life.reconcile(at=0)
    life.reconcile(seen(child(), pod()), at=60)
    life.change(suspend=True)
    life.reconcile(seen(child(), pod()), at=100)
    life.reconcile(at=110)
    assert (life.phase, life.last.reason) == ("Suspended", "Suspended")
    life.change(suspend=False)
    life.reconcile(at=500)
    life.reconcile(seen(child(2), running_pod(2, since=seconds(520))), at=520)
    assert life.status.usage
    assert life.status.usage.queued_seconds == 110 + 20


@pytest.mark.parametrize(
    ("left", "lost", "to_step"),
    [
        (None, 20, 620),
        (ReachedStep(attempt=1, step=645), 45, 645),
        (ReachedStep(attempt=1, step=610), 20, 620),
        (ReachedStep(attempt=7, step=645), 20, 620),
    ],
    ids=["nothing", "more", "less", "another attempt's"],
)
def test_the_next_attempt_tells_how_far_one_had_come_that_was_killed(
    left: ReachedStep | None, lost: int, to_step: int
) -> None:
    life = Life(settings=settings(retry_backoff=0)).running()
    said = RunReport(attempt=1, latest=CheckpointStatus(step=600), progress=report(620).progress)
    life.reconcile(seen(child(), running_pod(), report=said, at=seconds(10)), at=10)
    life.reconcile(over(137, at=seconds(20)), at=21)
    assert life.status.attempts[0].lost_steps == 20
    resumed = RunReport(attempt=2, from_step=600, reached=left)
    for at in (40, 60):
        runs = running_pod(2, since=seconds(30))
        life.reconcile(seen(child(2), runs, report=resumed, at=seconds(at)), at=at)
        first = life.status.attempts[0]
        assert (first.lost_steps, first.to_step) == (lost, to_step)


def test_of_an_attempt_that_reported_no_step_the_next_one_tells_them_too() -> None:
    life = Life(settings=settings(retry_backoff=0)).running()
    life.reconcile(over(137, at=seconds(20)), at=21)
    resumed = RunReport(attempt=2, from_step=0, reached=ReachedStep(attempt=1, step=9))
    life.reconcile(seen(child(2), running_pod(2, since=seconds(30)), report=resumed, at=seconds(40)), at=40)
    assert (life.status.attempts[0].lost_steps, life.status.attempts[0].to_step) == (9, 9)


def test_an_attempt_that_stops_on_request_leaves_its_last_step_in_the_status() -> None:
    life = Life().running()
    at_six = report(6).model_copy(update={"attempt": 1})
    life.reconcile(seen(child(), running_pod(), report=at_six, at=seconds(1)), at=1)
    life.change(suspend=True)
    life.reconcile(seen(child(), running_pod(), report=at_six, at=seconds(1)), at=2)
    final = RunReport(exit_code=75, progress=report(9).progress, latest=CheckpointStatus(step=9))
    life.reconcile(seen(ended_pod(75, deleted=True, report=final)), at=3)
    assert life.status.progress
    assert (life.phase, life.status.progress.step, life.last.lost_steps) == ("Suspended", 9, 0)


def test_an_unseen_success_costs_no_retry() -> None:
    life = Life(parsed(retry={"limit": 0})).running()
    life.reconcile(Observation(), at=60)
    assert (life.last.number, life.status.attempts[0].counted) == (2, False)
    attempt_runs(life, 61)
    life.reconcile(over(0, 2, report=REPORT), at=62)
    assert life.phase == "Succeeded"


def test_the_status_of_an_older_operator_goes_on() -> None:
    life = Life().running()
    older = life.status.model_copy(
        update={
            "usage": None,
            "effective": EffectiveStatus(),
            "attempts": [AttemptStatus(number=1, start_time=seconds(0), running_time=seconds(0), node="n1")],
        }
    )
    life.store(older)
    life.reconcile(over(139, at=seconds(50)), at=60)
    assert life.status.usage
    assert (life.status.usage.gpu_seconds, life.last.lost_steps) == (50, None)


def test_of_a_script_that_names_no_checkpoint_no_lost_steps_are_known() -> None:
    life = Life(parsed(script_job())).running()
    said = RunReport(attempt=1, progress=ProgressStatus(step=60))
    life.reconcile(seen(child(), running_pod(), report=said, at=seconds(10)), at=10)
    life.reconcile(over(1, at=seconds(20)), at=21)
    first = life.status.attempts[0]
    assert (first.to_step, first.lost_steps) == (60, None)


def test_the_wait_of_a_pod_that_has_ended_before_it_was_seen_counts_once() -> None:
    life = Life()
    life.reconcile()
    ended = ended_pod(70, at=seconds(12), started=seconds(10))
    for at in (12, 13, 14):
        life.reconcile(seen(child(), ended), at=at)
    life.reconcile(seen(child(failed=True), ended), at=15)
    assert (life.status.usage.queued_seconds, life.status.usage.gpu_seconds) == (10, 2)


def test_progress_that_a_clock_ahead_has_written_does_not_stop_the_next() -> None:
    """Such as that of a former leader."""
    life = Life().running()
    runs, report = running_pod(), RunReport(attempt=1, progress=ProgressStatus(step=10, train_seconds=5))
    life.reconcile(seen(child(), runs, report=report, at=seconds(3600)), at=3600)
    later = RunReport(attempt=1, progress=ProgressStatus(step=20, train_seconds=9))
    life.reconcile(seen(child(), runs, report=later, at=seconds(20)), at=20)
    progress = life.status.progress
    assert (progress.step, progress.last_update_time) == (20, seconds(20))
    assert life.status.usage.gpu_seconds == 3600
