"""Attempts whose Job is suspended: they wait in a queue, are evicted, and resume in the same attempt."""

from dataclasses import replace
from typing import Any

import pytest

from builders import job, stored
from finetune_api.run import RunReport
from finetune_api.status import CheckpointStatus, ProgressStatus
from finetune_core.decide.observation import Observation, PodView, QueueView
from finetune_core.decide.queue import boost_of, unsaved_gpu_minutes
from finetune_core.plan.effective import resolve
from finetune_core.plan.naming import Run
from finetune_core.plan.reading import parse
from finetune_core.search.plan import run_body
from finetune_operator.cache import Cache
from finetune_operator.kueue import queue_view, workload_names
from finetune_operator.views import job_view
from finetune_sdk.validation import faults_of
from unit.operator.worlds import (
    CREATE,
    MODEL,
    NOTHING,
    STOP,
    Life,
    child,
    ended_pod,
    over,
    parsed,
    planned,
    pod,
    running_pod,
    seconds,
    seen,
    settings,
    true_conditions,
)

QUEUED: dict[str, Any] = {"scheduling": {"queue": "team-a"}, "resources": {"gpusPerNode": 2}}
HELD = child(suspended=True, queue="team-a")
NO_QUOTA = (
    "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor gpus,"
    " 1 more needed"
)
PREEMPTED = (
    "Preempted to accommodate a workload (UID: 1, JobUID: 2) due to prioritization in the ClusterQueue"
)


def waiting(view: QueueView | None, at: float = 60, **spec: Any) -> Life:
    """A job that has not run yet, with what Kueue says."""
    life = Life(parsed(**(QUEUED | spec)))
    life.reconcile()
    decision = life.reconcile(replace(seen(HELD), queue=view), at=at)
    assert decision.action is NOTHING
    return life


def evicted(at: float = 60) -> Life:
    """A job that ran for a minute, was evicted and has stopped."""
    life = Life(parsed(**QUEUED)).running()
    view = QueueView(name="w", evicted=PREEMPTED)
    stopping = running_pod(deleting=True, created=seconds(0))
    life.reconcile(replace(seen(HELD, stopping), queue=view), at=at - 5)
    assert (life.phase, life.reason) == ("Pending", "Stopping")
    gone = ended_pod(75, at=seconds(at), deleted=True, created=seconds(0))
    life.reconcile(replace(seen(HELD, gone), queue=view), at=at)
    return life


def test_only_the_job_carries_the_queue_and_is_created_suspended() -> None:
    made = planned(job(**QUEUED))
    assert made.job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert made.job["spec"]["suspend"] is True
    assert "kueue.x-k8s.io/queue-name" not in made.job["spec"]["template"]["metadata"]["labels"]
    plain = planned(job())
    assert "suspend" not in plain.job["spec"]
    assert "kueue.x-k8s.io/queue-name" not in plain.job["metadata"]["labels"]


@pytest.mark.parametrize(
    ("view", "reason", "says"),
    [
        (None, "Queued", "waits in queue team-a: kubectl describe workloads -n default shows why"),
        (QueueView(served=False), "MissingObject", "no Kueue is installed in this cluster"),
        (QueueView(), "MissingObject", "no Kueue has taken over the Job job-a1; check that Kueue runs"),
        (QueueView(name="w"), "Queued", "Kueue has not decided yet"),
        (QueueView(name="w", waiting=NO_QUOTA), "Queued", f"waits in queue team-a: {NO_QUOTA}"),
        (
            QueueView(name="w", waiting="LocalQueue team-a doesn't exist"),
            "MissingObject",
            "LocalQueue team-a doesn't exist; create LocalQueue team-a in namespace default, or suspend the job",
        ),
        (
            QueueView(name="w", active=False, evicted="The workload is deactivated"),
            "Queued",
            "the Workload w is deactivated (The workload is deactivated); kubectl patch workload w -n default --type",
        ),
        (
            QueueView(name="w", checks="admission check budget (over it)"),
            "Queued",
            "its quota is reserved; it waits for admission check budget (over it)",
        ),
    ],
)
def test_a_queued_job_says_why_it_waits(view: QueueView | None, reason: str, says: str) -> None:
    life = waiting(view)
    assert (life.phase, life.reason) == ("Pending", reason)
    assert says in life.message
    assert len(life.message) <= 1024


def test_kueue_has_half_a_minute_to_answer() -> None:
    assert "Kueue has not answered yet" in waiting(QueueView(), at=20).message


def test_kueue_s_very_long_sentence_fits_the_status() -> None:
    assert len(waiting(QueueView(name="w", waiting="exceeds " * 500)).message) <= 1024


def test_the_longer_a_job_waits_the_less_often_its_queue_is_asked() -> None:
    life = waiting(QueueView(name="w", waiting=NO_QUOTA))
    for at, pause in ((60, 15), (1200, 120), (100_000, 300)):
        decision = life.reconcile(replace(seen(HELD), queue=QueueView(name="w", waiting=NO_QUOTA)), at=at)
        assert decision.requeue_at == seconds(at + pause)


def test_an_admitted_job_starts_as_any_other() -> None:
    life = waiting(QueueView(name="w", waiting=NO_QUOTA))
    life.reconcile(seen(child(), pod(created=seconds(61))), at=70)
    assert life.reason == "Starting"
    life.reconcile(seen(child(), running_pod(since=seconds(71), created=seconds(61))), at=72)
    assert (life.phase, life.last.running_time) == ("Running", seconds(71))


def test_an_eviction_ends_the_running_time_and_nothing_else() -> None:
    life = evicted()
    assert (life.phase, life.reason, life.status.attempt) == ("Pending", "Queued", 1)
    assert f"evicted, and waits in queue team-a: {PREEMPTED}" in life.message
    assert (life.status.active_seconds, life.last.running_time) == (60, None)
    assert (life.last.evictions, life.last.evicted_time, life.last.end_time) == (1, seconds(60), None)
    assert life.status.retries is None


def test_what_an_evicted_attempt_saved_is_known_while_it_waits() -> None:
    life = Life(parsed(**QUEUED)).running()
    before = RunReport(progress=ProgressStatus(step=20), latest=CheckpointStatus(step=20), attempt=1)
    life.reconcile(seen(child(), running_pod(created=seconds(0)), report=before, at=seconds(30)), at=30)
    last = RunReport(exit_code=75, progress=ProgressStatus(step=33), latest=CheckpointStatus(step=33))
    gone = ended_pod(75, report=last, at=seconds(60), deleted=True, created=seconds(0))
    life.reconcile(seen(HELD, gone, report=before, at=seconds(30)), at=60)
    assert (life.status.latest_checkpoint, life.last.to_step) == (CheckpointStatus(step=33), 33)
    again = running_pod(name="pod-b", since=seconds(101), created=seconds(100))
    life.reconcile(seen(child(), gone, again), at=102)
    killed = ended_pod(137, name="pod-b", at=seconds(190), deleted=True, created=seconds(100))
    life.reconcile(seen(HELD, gone, killed, report=before, at=seconds(30)), at=190)
    assert (life.status.latest_checkpoint, life.last.to_step) == (CheckpointStatus(step=33), 33)
    assert life.last.evictions == 2


def said(step: int, saved: int, since: int, train_seconds: float | None = None) -> RunReport:
    return RunReport(
        attempt=1,
        from_step=since,
        progress=ProgressStatus(step=step, train_seconds=train_seconds),
        latest=CheckpointStatus(step=saved) if saved else None,
    )


def killed_at_the_end_of_its_grace_period() -> Life:
    """An evicted job of two GPUs that reported step 90, and a checkpoint of step 60 before that."""
    life = Life(parsed(**QUEUED)).running()
    running = running_pod(created=seconds(0))
    life.reconcile(seen(child(), running, report=said(90, 60, 0, train_seconds=45), at=seconds(50)), at=50)
    gone = ended_pod(137, at=seconds(60), deleted=True, created=seconds(0))
    life.reconcile(seen(HELD, gone, report=said(90, 60, 0, train_seconds=45), at=seconds(50)), at=60)
    return life


def resumed(life: Life, report: RunReport | None, began: float = 100, name: str = "pod-b") -> Life:
    """Its queue has let it run again, and it reports ten seconds later."""
    runs = running_pod(name=name, since=seconds(began), created=seconds(began))
    life.reconcile(seen(child(), runs, report=report, at=seconds(began + 10)), at=began + 10)
    return life


def test_steps_that_an_evicted_attempt_could_not_save_are_lost_and_were_no_useful_time() -> None:
    life = killed_at_the_end_of_its_grace_period()
    assert (life.last.lost_steps, life.last.from_step, life.last.to_step) == (30, None, 90)
    resumed(life, said(70, 60, 60, train_seconds=35))
    assert (life.last.lost_steps, life.last.from_step, life.last.to_step) == (30, 60, 70)
    usage = life.status.usage
    assert usage
    assert (usage.gpu_seconds, usage.useful_gpu_seconds) == (140, 70), "the steps after 60 count once"


def test_the_first_step_after_an_eviction_says_what_was_lost() -> None:
    """Its pod saved more than it could report, or what it had saved is damaged."""
    for first, lost in ((80, 10), (0, 90)):
        life = resumed(killed_at_the_end_of_its_grace_period(), said(first + 5, 0, first))
        assert life.last.lost_steps == lost
        checkpoint = life.status.latest_checkpoint
        assert (checkpoint.step if checkpoint else 0) == first


def test_lost_steps_of_several_evictions_and_of_the_end_add_up() -> None:
    life = resumed(killed_at_the_end_of_its_grace_period(), said(100, 60, 60))
    gone = ended_pod(137, name="pod-b", at=seconds(120), deleted=True, created=seconds(100))
    life.reconcile(seen(HELD, gone), at=120)
    assert (life.last.evictions, life.last.lost_steps) == (2, 70)
    resumed(life, said(130, 110, 60), began=200, name="pod-c")
    assert (life.last.from_step, life.last.lost_steps) == (60, 70)
    killed = ended_pod(137, name="pod-c", at=seconds(220), created=seconds(200))
    life.reconcile(seen(child(failed=True), killed), at=221)
    assert life.status.attempts[0].lost_steps == 90
    second = said(120, 0, 105).model_copy(update={"attempt": 2})
    life.reconcile(at=400)
    runs = running_pod(2, since=seconds(401))
    life.reconcile(seen(child(2), runs, report=second, at=seconds(410)), at=410)
    assert [one.lost_steps for one in life.status.attempts] == [95, None]


def test_an_evicted_attempt_that_never_reports_again_has_lost_nothing_more() -> None:
    life = killed_at_the_end_of_its_grace_period()
    old = said(90, 60, 0)
    runs = running_pod(name="pod-b", since=seconds(100), created=seconds(100))
    life.reconcile(seen(child(), runs, report=old, at=seconds(50)), at=110)
    assert life.last.from_step is None, "that report is of the pod that was evicted"
    gone = ended_pod(137, name="pod-b", at=seconds(120), deleted=True, created=seconds(100))
    life.reconcile(seen(HELD, gone, report=old, at=seconds(50)), at=120)
    assert (life.last.evictions, life.last.lost_steps) == (2, 30)
    life.change(suspend=True)
    life.reconcile(seen(HELD, report=old, at=seconds(50)), at=130)
    life.reconcile(seen(report=old, at=seconds(50)), at=131)
    assert (life.phase, life.last.lost_steps) == ("Suspended", 30)


def test_another_look_at_an_evicted_attempt_counts_nothing_twice() -> None:
    life = evicted()
    before = life.status
    gone = ended_pod(75, at=seconds(60), deleted=True, created=seconds(0))
    view = QueueView(name="w", evicted=PREEMPTED)
    for observation in (seen(HELD, gone), seen(HELD)):  # with what the cache kept, and after a restart
        life.reconcile(replace(observation, queue=view), at=61)
        assert life.status == before


def test_an_evicted_attempt_resumes_in_the_same_attempt_and_both_times_count() -> None:
    life = evicted()
    gone = ended_pod(75, at=seconds(60), deleted=True, created=seconds(0))
    life.reconcile(seen(child(), gone), at=1000)
    assert (life.phase, life.reason) == ("Pending", "Starting")
    again = running_pod(name="pod-b", since=seconds(1010), created=seconds(1001))
    life.reconcile(seen(child(), gone, again), at=1011)
    assert (life.phase, life.last.running_time, life.status.attempt) == ("Running", seconds(1010), 1)
    done = ended_pod(0, name="pod-b", report=RunReport(exit_code=0, model=MODEL), at=seconds(1110))
    last = replace(done, created=seconds(1001), started=seconds(1010))
    life.reconcile(seen(child(succeeded=True), gone, last), at=1111)
    assert (life.phase, life.status.active_seconds) == ("Succeeded", 160)


def test_a_failure_after_an_eviction_is_that_of_the_newer_pod() -> None:
    life = evicted()
    gone = ended_pod(75, at=seconds(60), deleted=True, created=seconds(0))
    failed = ended_pod(65, name="pod-b", message="row 7 has no label", at=seconds(1020))
    failed = replace(failed, created=seconds(1001), started=seconds(1010))
    life.reconcile(seen(child(failed=True), gone, failed), at=1021)
    assert (life.phase, life.last.exit_code, life.status.active_seconds) == ("Failed", 65, 70)


def test_an_eviction_and_resumption_that_no_operator_saw_counts_up_to_the_last_report() -> None:
    life = Life(parsed(**QUEUED)).running()
    report = RunReport(progress=ProgressStatus(step=5), attempt=1)
    life.reconcile(seen(child(), running_pod(), report=report, at=seconds(40)), at=40)
    assert life.status.progress
    again = running_pod(name="pod-b", since=seconds(1010), created=seconds(1001))
    life.reconcile(seen(child(), again), at=1011)
    assert (life.status.active_seconds, life.last.evictions) == (40, 1)
    assert life.last.running_time == seconds(1010)


def test_pods_of_one_attempt_that_start_one_after_the_other_are_no_eviction() -> None:
    life = Life(parsed(**QUEUED)).running()
    two = [running_pod(index=index, since=seconds(3 * index), created=seconds(0)) for index in (1, 0)]
    life.reconcile(seen(child(), *two), at=10)
    assert (life.last.evictions, life.last.running_time) == (None, seconds(0))


def test_a_start_that_is_restated_later_is_no_eviction() -> None:
    life = Life(parsed(**QUEUED)).running()
    life.reconcile(seen(child(), running_pod(since=seconds(2), created=seconds(0))), at=10)
    assert (life.last.evictions, life.last.running_time) == (None, seconds(0))


def test_waiting_does_not_count_for_the_deadline() -> None:
    life = evicted()
    life.change(active_deadline_seconds=90)
    life.reconcile(seen(HELD), at=5000)
    assert life.reason == "Queued"
    running = running_pod(name="pod-b", since=seconds(6000), created=seconds(5999))
    assert life.reconcile(seen(child(), running), at=6001).requeue_at == seconds(6030)
    assert life.reconcile(seen(child(), running), at=6031).action is STOP


def test_the_time_in_a_queue_does_not_count_for_the_start() -> None:
    life = waiting(QueueView(name="w", waiting=NO_QUOTA), at=5000, startupDeadlineSeconds=600)
    admitted = child(queue="team-a", resumed=seconds(5000))
    assert life.reconcile(seen(admitted, pod(created=seconds(5001))), at=5500).action is NOTHING
    assert life.reason == "Starting"
    assert life.reconcile(seen(admitted, pod(created=seconds(5001))), at=5600).action is STOP


def test_a_model_that_is_complete_before_the_eviction_is_a_success() -> None:
    life = Life(parsed(**QUEUED)).running()
    done = ended_pod(0, report=RunReport(exit_code=0, model=MODEL), deleting=True, created=seconds(0))
    life.reconcile(seen(HELD, done), at=60)
    assert life.phase == "Succeeded"


def test_a_queued_job_can_be_suspended_and_deleted_while_it_waits() -> None:
    for life in (waiting(QueueView(name="w", waiting=NO_QUOTA)), evicted()):
        life.change(suspend=True)
        assert life.reconcile(seen(HELD), at=100).action is STOP
        life.reconcile(seen(), at=101)
        assert (life.phase, life.status.retries) == ("Suspended", None)
        life.change(suspend=False)
        assert life.reconcile(at=200).action is CREATE


def test_a_job_of_an_evicted_attempt_that_somebody_deletes_is_created_again() -> None:
    life = evicted()
    decision = life.reconcile(Observation(), at=100)
    assert (decision.action, life.status.retries, life.status.active_seconds) == (CREATE, None, 60)


def test_a_queue_that_kueue_itself_gives_to_a_job_is_named() -> None:
    life = Life()
    life.reconcile()
    given = child(suspended=True, queue="default")
    life.reconcile(replace(seen(given), queue=QueueView(name="w", waiting=NO_QUOTA)), at=60)
    assert life.message == f"waits in queue default: {NO_QUOTA}"


def test_kueue_s_label_on_the_job_itself_would_have_no_effect_and_is_refused() -> None:
    labelled = job()
    labelled["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team-a"}
    life = Life(parsed(labelled))
    assert life.reconcile().action is NOTHING
    assert (life.reason, "Stalled" in true_conditions(life.status)) == ("InvalidSpec", True)
    assert "write spec.scheduling.queue: team-a" in life.message
    both = job(scheduling={"queue": "team-a"})
    both["metadata"]["labels"] = labelled["metadata"]["labels"]
    assert Life(parsed(both)).reconcile().action is CREATE


KUEUE = "kueue.x-k8s.io"
PRIORITY, MAX_TIME = f"{KUEUE}/priority-class", f"{KUEUE}/max-exec-time-seconds"


def marked(part: str, given: dict[str, str], **fields: Any) -> dict[str, Any]:
    """A job with these labels or annotations, as a user writes it."""
    body = job(**fields)
    body["metadata"] |= {part: given}
    return body


def test_what_kueue_reads_of_a_job_in_a_queue_passes_to_it_and_to_the_runs_of_a_search() -> None:
    given = {PRIORITY: "urgent", MAX_TIME: "3600", "team": "nlp"}
    made = planned(marked("labels", given, **QUEUED))
    assert made.job["metadata"]["labels"].items() >= {PRIORITY: "urgent", MAX_TIME: "3600"}.items()
    assert "team" not in made.job["metadata"]["labels"]
    assert not {PRIORITY, MAX_TIME} & made.job["spec"]["template"]["metadata"]["labels"].keys()
    rates = {"path": "training.optimizer.learningRate", "choice": [1e-5, 1e-4]}
    search = parse(stored(marked("labels", given, search={"parameters": [rates]}, **QUEUED)))
    run = run_body(search, resolve(search, settings()), Run(trial=1), {})
    assert run["metadata"]["labels"].items() >= {PRIORITY: "urgent", MAX_TIME: "3600"}.items()
    assert parse(stored(run)).kueue_labels == {PRIORITY: "urgent", MAX_TIME: "3600"}


@pytest.mark.parametrize(
    ("part", "given", "fields", "message"),
    [
        (
            "labels",
            {PRIORITY: "urgent"},
            {},
            f"metadata.labels: {PRIORITY} has no effect without a queue; write",
        ),
        ("labels", {MAX_TIME: "60"}, {}, f"metadata.labels: {MAX_TIME} has no effect without a queue"),
        (
            "labels",
            {MAX_TIME: "1h"},
            QUEUED,
            f"metadata.labels: {MAX_TIME}: '1h' is no number of seconds; write 1 to",
        ),
        ("labels", {MAX_TIME: "0"}, QUEUED, "'0' is no number of seconds"),
        ("labels", {MAX_TIME: "9" * 60}, QUEUED, "is no number of seconds"),
        (
            "labels",
            {MAX_TIME: "60"},
            QUEUED | {"activeDeadlineSeconds": 3600},
            f"metadata.labels: {MAX_TIME}: 60 contradicts spec.activeDeadlineSeconds: 3600; remove the label",
        ),
        (
            "labels",
            {f"{KUEUE}/prebuilt-workload-name": "w"},
            QUEUED,
            f"metadata.labels: {KUEUE}/prebuilt-workload-name has no effect on a FineTuneJob; remove it",
        ),
        (
            "annotations",
            {f"{KUEUE}/podset-required-topology": "rack"},
            QUEUED,
            "has no effect on a FineTuneJob; remove it; scheduling.topologyKey keeps the pods of a job together",
        ),
        ("annotations", {PRIORITY: "urgent"}, QUEUED, f"metadata.annotations: {PRIORITY} has no effect"),
        (
            "annotations",
            {f"provreq.{KUEUE}/class": "x"},
            QUEUED,
            f"metadata.annotations: provreq.{KUEUE}/class has",
        ),
    ],
)
def test_nothing_of_kueue_s_is_ignored_silently(
    part: str, given: dict[str, str], fields: dict[str, Any], message: str
) -> None:
    body = marked(part, given, **fields)
    life = Life(parse(stored(body)))
    assert life.reconcile().action is NOTHING
    assert (life.reason, "Stalled" in true_conditions(life.status)) == ("InvalidSpec", True)
    assert message in life.message
    assert life.message in list(faults_of(body))


@pytest.mark.parametrize(
    ("given", "fields"),
    [({PRIORITY: ""}, {}), ({MAX_TIME: "60"}, QUEUED | {"activeDeadlineSeconds": 60}), ({"team": "nlp"}, {})],
)
def test_labels_that_say_nothing_else_are_taken(given: dict[str, str], fields: dict[str, Any]) -> None:
    body = marked("labels", given, **fields)
    assert not list(faults_of(body))
    assert Life(parse(stored(body))).reconcile().action is CREATE


def test_a_priority_in_the_queue_has_to_be_allowed_as_a_priority_class_has() -> None:
    life = Life(parse(stored(marked("labels", {PRIORITY: "urgent"}, **QUEUED))))
    life.settings = settings(allowed_priority_classes=["batch-*"])
    life.reconcile()
    assert life.reason == "NotAllowed"
    assert (
        life.message
        == f"metadata.labels: {PRIORITY}: the administrator does not allow urgent; use one of batch-*, or remove it"
    )


def test_a_priority_of_which_kueue_makes_no_workload_is_named() -> None:
    life = Life(parse(stored(marked("labels", {PRIORITY: "urgent"}, **QUEUED))))
    life.reconcile()
    life.reconcile(replace(seen(HELD), queue=QueueView()), at=60)
    assert f"that there is a WorkloadPriorityClass urgent ({PRIORITY})" in life.message


def test_the_cache_keeps_of_kueue_s_metadata_what_decisions_read_and_no_long_text() -> None:
    labels = {f"{KUEUE}/x{number}": "y" for number in range(50)} | {PRIORITY: "urgent"}
    body = stored(marked("labels", labels, **QUEUED))
    body["metadata"]["annotations"] = {f"{KUEUE}/{number}": "x" * 5000 for number in range(50)}
    cache = Cache()
    kept = cache.finetunejobs[cache.put_finetunejob(body)]
    assert len(str(kept["metadata"])) < 2000
    assert parse(kept) == parse(body)


def test_a_job_that_a_person_suspends_says_so_and_how_to_continue() -> None:
    life = Life().running()
    life.reconcile(seen(child(suspended=True), running_pod(deleting=True)), at=50)
    assert "somebody has suspended the Job job-a1" in life.message
    assert "delete node" not in life.message
    life.reconcile(seen(child(suspended=True), ended_pod(75, deleted=True, at=seconds(55))), at=60)
    assert (life.phase, life.reason) == ("Pending", "Queued")
    assert "kubectl patch job job-a1 -n default" in life.message


@pytest.mark.parametrize("pods", [[ended_pod(75, deleted=True, at=seconds(50))], []], ids=["seen", "gone"])
def test_an_eviction_while_the_operator_is_down_does_not_use_up_the_deadline(pods: list[PodView]) -> None:
    life = Life(parsed(**QUEUED, activeDeadlineSeconds=60)).running()
    said = RunReport(attempt=1, progress=ProgressStatus(step=9))
    life.reconcile(seen(child(queue="team-a"), running_pod(), report=said, at=seconds(50)), at=50)
    life.reconcile(replace(seen(HELD, *pods), queue=QueueView(name="w", evicted=PREEMPTED)), at=10_000)
    assert (life.phase, life.reason, life.status.active_seconds) == ("Pending", "Queued", 50)


def test_a_job_that_is_scaled_to_nothing_is_suspended_and_says_how_to_continue() -> None:
    body = planned(job()).job
    body["metadata"] |= {"uid": "u"}
    body["spec"]["parallelism"] = 0
    view = job_view(body)
    life = Life(parsed(activeDeadlineSeconds=60)).running()
    life.reconcile(seen(view, running_pod(deleting=True)), at=50)
    assert f"somebody has set the parallelism of the Job {view.name} to 0" in life.message
    life.reconcile(seen(view, ended_pod(75, deleted=True, at=seconds(55))), at=500)
    assert (life.phase, life.reason, life.status.active_seconds) == ("Pending", "Queued", 55)
    assert f"kubectl patch job {view.name}" in life.message
    assert """-p '{"spec":{"parallelism":1}}' lets training continue""" in life.message


def test_an_attempt_that_fails_before_it_is_evicted_has_failed() -> None:
    life = Life(parsed(**QUEUED)).running()
    life.reconcile(over(65, message="bad"), at=60)
    assert life.phase == "Failed"


@pytest.mark.parametrize(
    ("step", "saved", "at", "minutes", "points"),
    [
        (0, None, 0, 0.0, 0),
        (100, None, 600, 20.0, 20),
        (100, 100, 600, 0.0, 0),
        (100, 50, 600, 10.0, 10),
        (100, 90, 600, 2.0, 0),
        (100, None, 60_000, 2000.0, 100),
    ],
)
def test_the_boost_is_the_gpu_minutes_since_the_last_checkpoint(
    step: int, saved: int | None, at: float, minutes: float, points: int
) -> None:
    life = Life(parsed(**QUEUED)).running()
    status = life.status.model_copy(
        update={
            "progress": ProgressStatus(step=step),
            "latest_checkpoint": CheckpointStatus(step=saved) if saved else None,
        }
    )
    assert unsaved_gpu_minutes(status, seconds(at)) == pytest.approx(minutes)
    assert boost_of(status, seconds(at), 100) == points


def test_a_job_that_waits_has_no_boost() -> None:
    assert boost_of(evicted().status, seconds(10_000), 100) == 0


def test_a_workload_is_named_as_kueue_names_it() -> None:
    assert len(workload_names("short-a1", "uid")) == 1
    long = workload_names("x" * 63, "uid")
    assert [len(name) for name in long] == [4 + 63 + 6, 63]


def test_a_workload_of_strange_content_is_read_without_an_exception() -> None:
    for strange in (
        {},
        {"metadata": {"name": 5}, "spec": [], "status": {"conditions": [None, 3, {"type": []}]}},
    ):
        assert queue_view(strange).active


def preempted_again(started: float, ended: float | None, at: float = 200) -> Life:
    """A job whose second attempt ran from 100 to 200 s, and is then evicted, looked at three times."""
    life = Life(parsed(**QUEUED)).running()
    report = RunReport(attempt=1, from_step=0, progress=ProgressStatus(step=5, train_seconds=20))
    life.reconcile(seen(child(queue="team-a"), running_pod(), report=report, at=seconds(30)), at=30)
    life.reconcile(over(75, at=seconds(60)), at=60)
    life.reconcile(seen(), at=60)
    assert (life.last.number, life.status.active_seconds) == (2, 60)
    runs = running_pod(2, since=seconds(started), created=seconds(99))
    life.reconcile(seen(child(2, queue="team-a"), runs), at=100)
    end = None if ended is None else seconds(ended)
    gone = replace(ended_pod(75, 2, at=end, created=seconds(99)), started=runs.started, deleted=True)
    for later in range(3):
        held = child(2, suspended=True, queue="team-a")
        life.reconcile(seen(held, gone if ended else replace(gone, end=None)), at=at + later)
    return life


@pytest.mark.parametrize(
    ("started", "ended", "ran"),
    [(100, 200, 100), (100, None, 100), (400, 500, 100), (0, 100, 1)],
    ids=["plain", "nobody saw the end", "the node's clock is ahead", "the node's clock is behind"],
)
def test_an_eviction_counts_once_and_only_what_its_pods_ran(
    started: float, ended: float | None, ran: int
) -> None:
    """Not from a report of an earlier attempt, nor as a node's clock says."""
    life = preempted_again(started, ended)
    usage = life.status.usage
    assert (life.last.evictions, life.last.running_time) == (1, None)
    assert usage.queued_seconds in (39, 40)
    assert (usage.gpu_seconds, life.status.active_seconds) == (120 + 2 * ran, 60 + ran)


def test_the_pods_before_an_unseen_eviction_end_no_earlier_than_they_began() -> None:
    """The newer pod's node has a clock that is 100 s behind."""
    life = Life(parsed(**QUEUED)).running(at=120)
    newer = running_pod(since=seconds(60), created=seconds(159))
    for at in (160, 170):
        life.reconcile(seen(child(queue="team-a"), newer), at=at)
    assert (life.last.evictions, life.last.evicted_time) == (1, seconds(120))
    assert life.status.usage.queued_seconds == 39
