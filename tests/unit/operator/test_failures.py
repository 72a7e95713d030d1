"""Failure classes: how an attempt ended → reason, retried or not, counted or not, and what the user reads."""

from dataclasses import dataclass, replace

import pytest

from builders import script_job
from finetune_api.run import RunReport
from finetune_api.status import AttemptStatus, ProgressStatus
from finetune_core.decide.observation import Observation
from unit.operator.worlds import (
    CREATE,
    NOTHING,
    Life,
    child,
    ended_pod,
    over,
    parsed,
    pod,
    running_pod,
    seconds,
    seen,
    settings,
)

WHERE = RunReport(
    exit_code=65, message="reviews.jsonl, row 17: label is missing; add it or raise maxInvalidRows"
)
HUNG = RunReport(message="the process of rank 1 did not respond and was killed")
BELOW = RunReport(
    exit_code=78, message="spec.gate: eval_accuracy is 0.7, below min 0.8; the model is not published"
)
STALLED = RunReport(exit_code=79, message="no optimizer step for 312 s after step 40")
OUTDONE = RunReport(exit_code=77, message="pruned at step 6: eval_loss was 0.7 at step 6; others are better")


@dataclass(frozen=True)
class Class:
    name: str
    observation: Observation
    reason: str
    says: str
    script: bool = False


FATAL = [
    Class("configuration", over(64), "ConfigurationError", "exit code 64"),
    Class("data", over(65, report=WHERE), "DataError", "reviews.jsonl, row 17"),
    Class("not found", over(66), "NotFound", "exit code 66"),
    Class("device out of memory", over(71), "OutOfMemory", "exit code 71"),
    Class("diverged", over(72), "Diverged", "exit code 72"),
    Class("gate not passed", over(78, report=BELOW), "GateNotPassed", "eval_accuracy is 0.7, below min 0.8"),
    Class("pruned", over(77, report=OUTDONE), "Pruned", "eval_loss was 0.7 at step 6"),
    Class(
        "the log's last words", over(64, message="boom at line 3\n"), "ConfigurationError", "boom at line 3"
    ),
    Class("no report of a model", over(0), "Unknown", "not a trainer image of this version"),
]
FREE = [
    Class("interrupted", over(75), "Interrupted", "saved a checkpoint"),
    Class("drained", over(143, disruption="EvictionByEvictionAPI"), "Preempted", "EvictionByEvictionAPI"),
    Class("preempted", over(137, disruption="PreemptionByScheduler"), "Preempted", "evicted from node n1"),
    Class(
        "evicted from a full node",
        over(137, status_reason="Evicted", disruption="TerminationByKubelet"),
        "Preempted",
        "TerminationByKubelet",
    ),
    Class("node shut down", over(137, status_reason="NodeShutdown"), "Preempted", "NodeShutdown"),
    Class(
        "evicted before it began",
        seen(child(failed=True), pod(phase="Failed", disruption="TerminationByKubelet", node="n1")),
        "Preempted",
        "TerminationByKubelet",
    ),
    Class(
        "deleted with its node",
        seen(running_pod(deleted=True, disruption="DeletionByTaintManager")),
        "NodeLost",
        "node n1 was lost with the pod pod-a1",
    ),
    *[
        Class(
            f"refused by its node: {reason}",
            seen(
                child(failed=True), pod(phase="Failed", status_reason=reason, status_message=why, node="n1")
            ),
            "RefusedByNode",
            says,
        )
        for reason, why, says in [
            (
                "UnexpectedAdmissionError",
                "Allocate failed: no healthy devices.",
                "(Allocate failed: no healthy",
            ),
            (
                "OutOfcpu",
                "Node didn't have enough resource: cpu",
                "refused the pod pod-a1: OutOfcpu (Node didn't",
            ),
            ("NodeAffinity", None, "refused the pod pod-a1: NodeAffinity; the next"),
        ]
    ],
    Class("job failed without a pod", seen(child(failed=True)), "PodLost", "looks for its model first"),
    Class("succeeded, but nobody saw how", seen(child(succeeded=True)), "PodLost", "its model first"),
    Class(
        "a drained script", over(1, disruption="EvictionByEvictionAPI"), "Preempted", "Eviction", script=True
    ),
]
COUNTED = [
    Class("host out of memory", over(137, end_reason="OOMKilled"), "HostOutOfMemory", "limits.memory"),
    Class("no gpu", over(69), "GPUsNotSeen", "exit code 69"),
    Class("trainer's fault", over(70), "TrainerFault", "exit code 70"),
    Class("storage", over(74), "StorageFailed", "exit code 74"),
    Class("killed", over(137), "Killed", "SIGKILL from outside on node n1"),
    Class(
        "one rank killed",
        over(137, report=HUNG),
        "Killed",
        "rank 1 did not respond and was killed on node",
    ),
    Class("terminated", over(143), "Killed", "SIGTERM from outside on node n1"),
    Class("segmentation fault", over(139), "Crashed", "signal 11 (segmentation fault) on node n1"),
    Class("no step", over(79, report=STALLED), "Stalled", "no optimizer step for 312 s"),
    Class(
        "over its own limit of disk",
        over(137, status_reason="Evicted", status_message="Pod ephemeral local storage usage exceeds 1Gi."),
        "Evicted",
        "(Pod ephemeral local storage usage exceeds 1Gi); raise spec.resources.limits.ephemeral-storage",
    ),
    Class(
        "a deadline on the pod",
        seen(child(failed=True), running_pod(phase="Failed", status_reason="DeadlineExceeded")),
        "Killed",
        "activeDeadlineSeconds on its pod",
    ),
    Class("Xid", over(1, message="NVRM: Xid (PCI:0000:65:00): 79, GPU gone"), "GPUFault", "79", script=True),
    Class(
        "NCCL time-out",
        over(134, message="a\n[Rank 1] Watchdog caught collective operation timeout: ALLREDUCE\nb"),
        "PeerLost",
        "lost each other on node n1: [Rank 1] Watchdog caught",
    ),
    Class(
        "rendezvous",
        over(1, message="torch.distributed.DistNetworkError: connection refused"),
        "PeerLost",
        "DistNetworkError",
        script=True,
    ),
    Class("aborted", over(134), "Crashed", "signal 6"),
    Class("pod lost", seen(running_pod(deleted=True)), "PodLost", "pod-a1 was deleted on node n1"),
    Class("unknown", over(1), "Unknown", "exit code 1 and gave no reason"),
    Class("an exit code that is none", over(-1), "Unknown", "exit code -1"),
    Class("script", over(1, message="ValueError: no"), "ScriptFailed", "code 1: ValueError: no", script=True),
    Class("script with 65", over(65), "ScriptFailed", "exit code 65", script=True),
    Class("script with 75", over(75), "ScriptFailed", "exit code 75", script=True),
    Class("script with 77", over(77), "ScriptFailed", "exit code 77", script=True),
    Class("script killed", over(137), "ScriptFailed", "exit code 137", script=True),
    Class("script, host", over(137, end_reason="OOMKilled"), "HostOutOfMemory", "memory", script=True),
]


def ids(of: Class) -> str:
    return of.name


def life_of(one: Class, **spec: object) -> Life:
    written = script_job(**spec) if one.script else None
    life = Life(parsed(written, **({} if one.script else spec)), settings(retry_backoff=10)).running()
    life.reconcile(one.observation, at=60)
    return life


@pytest.mark.parametrize("one", FATAL, ids=ids)
def test_a_fault_that_no_retry_cures_fails_at_once_and_says_what_to_change(one: Class) -> None:
    life = life_of(one)
    assert (life.phase, life.reason, life.last.reason) == ("Failed", one.reason, one.reason)
    assert one.says in life.message
    assert life.status.attempt == 1
    assert life.status.completion_time == seconds(60)


@pytest.mark.parametrize("one", FREE, ids=ids)
def test_what_the_platform_did_is_retried_at_once_and_not_counted(one: Class) -> None:
    life = life_of(one, retry={"limit": 0})
    ended = life.status.attempts[0]
    assert (ended.reason, ended.counted) == (one.reason, False)
    assert one.says in str(ended.message)
    assert (life.phase, life.status.attempt, life.status.retries) == ("Pending", 2, None)
    assert one.says in life.message, "the next attempt says why it is needed"


@pytest.mark.parametrize("one", [one for one in COUNTED if one.reason == "PodLost"], ids=ids)
def test_a_pod_that_was_taken_away_is_followed_at_once_by_a_counted_attempt(one: Class) -> None:
    life = life_of(one)
    ended = life.status.attempts[0]
    assert (ended.reason, ended.counted) == ("PodLost", True)
    assert one.says in str(ended.message)
    assert (life.status.attempt, life.status.retries, life.status.retry_time) == (2, 1, None)


def test_a_pod_that_was_deleted_and_killed_is_followed_at_once_by_a_counted_attempt() -> None:
    life = Life(settings=settings(retry_backoff=10)).running()
    life.reconcile(over(137, deleting=True), at=60)
    ended = life.status.attempts[0]
    assert (ended.reason, ended.counted) == ("Killed", True)
    assert (life.status.attempt, life.status.retries, life.status.retry_time) == (2, 1, None)


@pytest.mark.parametrize("one", [one for one in COUNTED if one.reason != "PodLost"], ids=ids)
def test_a_failure_that_a_retry_may_cure_is_retried_after_a_pause_and_counted(one: Class) -> None:
    life = life_of(one)
    assert (life.last.reason, life.last.counted) == (one.reason, True)
    assert one.says in str(life.last.message)
    assert (life.reason, life.status.retries, life.status.retry_time) == ("WaitingToRetry", 1, seconds(70))
    assert one.says in life.message


@pytest.mark.parametrize("one", COUNTED, ids=ids)
def test_without_retries_left_it_fails_for_the_same_reason(one: Class) -> None:
    life = life_of(one, retry={"limit": 0})
    assert (life.phase, life.reason) == ("Failed", one.reason)
    assert one.says in life.message
    assert "spec.retry.limit of 0 reached" in life.message


def test_the_memory_limit_stands_in_the_sentence() -> None:
    life = Life(parsed(resources={"limits": {"memory": "16Gi"}})).running()
    life.reconcile(over(137, end_reason="OOMKilled", memory_limit="512Mi"), at=60)
    assert "memory limit of 512Mi" in str(life.last.message), "the pod's, which a LimitRange may have set"


def test_without_a_limit_the_node_s_memory_was_used_up() -> None:
    life = Life().running()
    life.reconcile(over(137, end_reason="OOMKilled"), at=60)
    assert "memory of its node" in str(life.last.message)


@pytest.mark.parametrize("code", [75, 137, 143, 1])
def test_a_deadline_that_a_policy_put_on_the_job_is_named_and_counted(code: int) -> None:
    life = Life(parsed(retry={"limit": 1})).running()
    for number, at in ((1, 60), (2, 500)):
        ended = replace(over(code, number), jobs=(child(number, failed=True, failure="DeadlineExceeded"),))
        life.reconcile(ended, at=at)
        life.reconcile(at=at + 30)
    assert (life.phase, life.reason, life.last.counted) == ("Failed", "Killed", True)
    assert "an activeDeadlineSeconds on its Job, which this operator does not set" in life.message


def test_a_script_s_last_line_comes_first_and_without_colours() -> None:
    log = "  0%|  | 0/100\r 10%|# | 10/100\nTraceback\n\x1b[31mValueError: no\x1b[0m\n"
    life = Life(parsed(script_job(retry={"limit": 0}))).running()
    life.reconcile(over(1, message=log), at=60)
    first = life.message.splitlines()[0]
    assert first == "spec.command ended with exit code 1: ValueError: no"


def test_pauses_double_up_to_five_minutes() -> None:
    life = Life(parsed(retry={"limit": 8}), settings(retry_backoff=10)).running()
    pauses, now = [], 60.0
    for number in range(1, 9):
        life.reconcile(over(70, number), at=now)
        assert life.status.retry_time
        pauses.append((life.status.retry_time - seconds(now)).total_seconds())
        waiting = life.reconcile(at=now)
        assert (waiting.action, waiting.requeue_at) == (NOTHING, life.status.retry_time)
        now += pauses[-1]
        assert life.reconcile(at=now).action is CREATE
    assert pauses == [10, 20, 40, 80, 160, 300, 300, 300]
    life.reconcile(over(70, 9), at=now)
    assert life.phase == "Failed"


def fault(step: int, words: str = "a bug in the trainer: KeyError: 'x'") -> RunReport:
    return RunReport(exit_code=70, message=words, progress=ProgressStatus(step=step))


def test_a_fault_that_comes_again_at_the_same_step_ends_the_job() -> None:
    life = Life(parsed(retry={"limit": 8}), settings(retry_backoff=0)).running()
    reports = (fault(7), fault(9), fault(7, "a bug in the trainer: OSError"), fault(7))
    for number, report in enumerate(reports, 1):
        assert life.phase != "Failed"
        life.reconcile(over(70, number, report=report), at=1000 * number)
        life.reconcile(at=1000 * number + 500)
    assert (life.phase, life.reason) == ("Failed", "TrainerFault")
    assert (
        "KeyError: 'x' (attempts 1 and 4 failed the same way at the same step; not retried)" in life.message
    )


def test_free_attempts_use_up_nothing_of_the_limit() -> None:
    life = Life(parsed(retry={"limit": 1}), settings(retry_backoff=0)).running()
    now = 1.0
    for number, code in enumerate((75, 70, 75, 75), 1):
        life.reconcile(over(code, number), at=now)
        life.reconcile(at=now + 1)
        now += 1000
    assert (life.phase, life.status.attempt, life.status.retries) == ("Pending", 5, 1)
    life.reconcile(over(70, 5), at=now)
    assert life.phase == "Failed"


def test_free_attempts_that_end_soon_one_after_the_other_get_pauses_too() -> None:
    life = Life(settings=settings(retry_backoff=10)).running()
    pauses, now = [], 2.0
    for number in range(1, 6):
        life.reconcile(over(75, number, at=seconds(now)), at=now)
        pause = (life.status.retry_time - seconds(now)).total_seconds() if life.status.retry_time else 0
        pauses.append(pause)
        now += pause
        life.reconcile(at=now)
        now += 1
    assert pauses == [0, 10, 20, 40, 80]
    assert life.status.retries is None

    now += 3600
    life.reconcile(over(75, 6, at=seconds(now)), at=now)
    assert life.status.retry_time is None, "an attempt that ran for an hour earns an immediate one"


def test_a_pod_of_the_same_attempt_that_succeeded_tells_more_than_one_that_was_lost() -> None:
    report = RunReport(exit_code=66, message="no such file")
    observation = seen(child(failed=True), running_pod(deleted=True, name="b"), ended_pod(66, report=report))
    life = Life().running()
    life.reconcile(observation, at=60)
    assert life.reason == "NotFound"


@pytest.mark.parametrize("code", [-1, 256, 10**12])
def test_an_exit_code_that_the_schema_does_not_know_is_left_out(code: int) -> None:
    life = Life().running()
    life.reconcile(over(code), at=60)
    assert life.last.exit_code is None


def test_the_limits_of_the_schema_hold_for_every_sentence() -> None:
    life = Life(parsed(script_job(retry={"limit": 0}))).running()
    life.reconcile(over(1, message="x" * 5000), at=60)
    assert len(life.message) <= 1024
    assert len(str(life.last.message)) <= 1024
    assert isinstance(life.last, AttemptStatus)


def test_an_impossible_step_in_a_report_does_not_make_the_status_unwritable() -> None:
    life = Life().running()
    life.reconcile(over(70, message='{"exitCode": 70, "fromStep": -5, "message": "x"}'), at=60)
    assert life.last.from_step is None
