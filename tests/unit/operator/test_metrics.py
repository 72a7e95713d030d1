"""What is exposed of jobs in every state, how much of it, and what is counted of their changes."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from builders import job, script_job, stored
from finetune_api.exposition import Kind, Unit
from finetune_api.exposition import Metric as Definition
from finetune_api.status import METRICS_KEPT, Phase, Reason, TrialState
from finetune_core.plan.naming import MEMBER, PARENT_UID, TRIAL
from finetune_operator.cache import Cache
from finetune_operator.metrics.definitions import definitions
from finetune_operator.metrics.figures import ENDS
from finetune_operator.metrics.jobs import FINISHED_KEPT, SERIES_KEPT
from finetune_operator.metrics.page import Page
from finetune_operator.metrics.registry import Metrics
from finetune_operator.watches import KINDS, Watches
from finetune_trainer.reporting import metrics as trainer
from unit.operator.worlds import T0

Body = dict[str, Any]
Labels = frozenset[tuple[str, str]]


def moment(seconds: float) -> str:
    """A time in a status, `seconds` after the beginning."""
    return f"{T0 + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


def attempt(number: int = 1, **fields: Any) -> Body:
    return {"number": number, "startTime": moment(0), "runningTime": moment(30)} | fields


def running(**fields: Any) -> Body:
    """The status of a job that trains on two GPUs, with everything that a trainer reports."""
    return {
        "phase": "Running",
        "conditions": [
            {"type": "Running", "status": "True", "reason": "Running"},
            {"type": "Reconciling", "status": "True", "reason": "Running"},
            {"type": "Failed", "status": "False", "reason": "NotFinished"},
        ],
        "attempt": 1,
        "attempts": [attempt(toStep=40)],
        "startTime": moment(0),
        "effective": {"resources": {"nodes": 1, "gpusPerNode": 2}},
        "progress": {
            "percent": 40,
            "step": 40,
            "etaSeconds": 90,
            "loss": 0.5,
            "lastUpdateTime": moment(60),
        },
        "epochs": [{"epoch": 1, "step": 40, "evalLoss": 0.6, "metrics": {"accuracy": 0.8}}],
    } | fields


def finished(seconds: float = 90, phase: str = "Succeeded", reason: str = "Succeeded", **fields: Any) -> Body:
    """The status of that job once it has ended, after `seconds`."""
    kind = "Complete" if phase == "Succeeded" else "Failed"
    conditions = [
        {"type": "Running", "status": "False", "reason": reason},
        {"type": kind, "status": "True", "reason": reason},
        {"type": "Finished", "status": "True", "reason": phase},
    ]
    ended = attempt(toStep=100, endTime=moment(seconds), reason=reason)
    return (
        running()
        | {
            "phase": phase,
            "conditions": conditions,
            "attempts": [ended],
            "activeSeconds": int(seconds) - 30,
            "completionTime": moment(seconds),
        }
        | fields
    )


class World:
    """A cache, its metrics and a clock that stands `at` seconds after the beginning."""

    def __init__(self, at: float = 120) -> None:
        self.at, self.cache, self._version = at, Cache(), 1
        self.metrics = Metrics(self.cache, lambda: T0 + timedelta(seconds=self.at))

    def put(self, name: str, status: Body, written: Body | None = None, /, **metadata: Any) -> Body:
        self._version += 1
        body = stored(written or job(name), uid=f"uid-of-{name}")
        body["metadata"] |= {"name": name, "resourceVersion": str(self._version)} | metadata
        self.cache.put_finetunejob(body | {"status": status})
        return body

    def families(self) -> dict[str, Metric]:
        page = b"".join(self.metrics.expose()).decode()
        return {family.name: family for family in text_string_to_metric_families(page)}

    def samples(self) -> dict[tuple[str, Labels], float]:
        """Value by name and labels."""
        found = [
            ((one.name, frozenset(one.labels.items())), one.value)
            for family in self.families().values()
            for one in family.samples
        ]
        assert len(found) == len(dict(found)), "no series twice"
        return dict(found)

    def of(self, metric: str, /, **labels: str) -> list[float]:
        """The values of the series of a metric that have these labels."""
        return [
            value
            for (name, found), value in self.samples().items()
            if name == metric and labels.items() <= dict(found).items()
        ]

    def total(self, metric: str, /, **labels: str) -> float:
        """The sum of those values."""
        return sum(self.of(metric, **labels))

    def series_of(self, name: str) -> Counter[str]:
        """Number of series of a job, by metric."""
        return Counter(metric for metric, labels in self.samples() if ("name", name) in labels)


def pod_of(name: str, phase: str) -> Body:
    """A pod of a job's first attempt."""
    labels = {"job-name": name, "job-uid": f"uid-of-{name}", "attempt": "1"}
    owner = {"kind": "Job", "name": f"{name}-{f'uid-of-{name}'[:8]}-a1", "controller": True}
    metadata = {
        "name": f"{name}-a1-x",
        "namespace": "default",
        "uid": "p",
        "resourceVersion": "9",
        "labels": {f"finetune.dev/{key}": value for key, value in labels.items()},
        "ownerReferences": [owner],
    }
    return {"metadata": metadata, "status": {"phase": phase}}


def child_of(parent: str, label: str, number: str) -> Body:
    """Metadata of a trial or member."""
    uid = f"uid-of-{parent}"
    suffix = f"t{int(number):03}" if label == TRIAL else f"m{number}"
    return {
        "name": f"{parent}-{uid[:8]}-{suffix}",
        "labels": {PARENT_UID: uid, label: number},
        "ownerReferences": [{"kind": "FineTuneJob", "name": parent, "uid": uid, "controller": True}],
    }


TRIALS = {
    "metric": "eval_loss",
    "planned": 8,
    "total": 3,
    "running": 1,
    "succeeded": 1,
    "pruned": 1,
    "failed": 0,
    "stopped": 0,
    "deleted": 0,
    "repeats": 0,
    "deviceSeconds": 100,
    "savedSeconds": 40,
    "best": {"number": 1, "name": "t", "state": "Succeeded", "value": 0.4},
}
COMBINATION = {
    "metric": "test_accuracy",
    "gain": 0.02,
    "combined": 0.9,
    "bestMember": 0.88,
    "meanMember": 0.85,
}


PREFLIGHT = {"number": 1, "reason": "Succeeded", "endTime": moment(20), "memory": {"total": 5_000}}
IMPROVEMENT = {"metric": "accuracy", "from": 0.5, "to": 0.8, "delta": 0.3, "ci95": [0.1, 0.4]}
NO_ENDS = {
    Reason.ACCEPTED,
    Reason.QUEUED,
    Reason.STARTING,
    Reason.PENDING,
    Reason.UNSCHEDULABLE,
    Reason.CLAIM_NOT_BOUND,
    Reason.CLAIM_NOT_SHARED,
    Reason.OUTPUT_TAKEN,
    Reason.MISSING_OBJECT,
    Reason.IMAGE_PULL_FAILED,
    Reason.PREFLIGHT,
    Reason.WAITING_TO_RETRY,
    Reason.STOPPING,
    Reason.RUNNING,
    Reason.NOT_SUSPENDED,
    Reason.SUSPENDED,
    Reason.IMPROVED,
    Reason.NOT_IMPROVED,
    Reason.WITHIN_UNCERTAINTY,
    Reason.NOT_FINISHED,
    Reason.FAILED,
    Reason.INVALID_SPEC,
    Reason.NOT_ALLOWED,
    Reason.CHILD_NAME_CONFLICT,
    Reason.PRUNED,
}
"""With which a job waits, goes on or is compared; only trials are pruned, and they are not counted."""


def test_a_running_job_says_where_it_is() -> None:
    world = World()
    world.put("one", running(), job("one", activeDeadlineSeconds=600))
    pod = pod_of("one", "Running")
    world.cache.put_child("Pod", pod)
    assert world.of("finetune_job_state", name="one", phase="Running", reason="Running") == [1]
    assert world.of("finetune_job_condition", name="one", type="Running") == [1]
    assert world.of("finetune_job_condition", name="one", type="Failed") == []
    assert world.of("finetune_job_progress_ratio", name="one") == [0.4]
    assert world.of("finetune_job_loss", name="one") == [0.5]
    assert world.of("finetune_job_eval_metric", name="one", metric="accuracy") == [0.8]
    assert world.of("finetune_job_gpu_seconds_total", name="one") == [2 * 90]
    assert world.of("finetune_job_deadline_timestamp_seconds") == [T0.timestamp() + 30 + 600]
    assert world.of("finetune_job_pod_info", name="one", pod="one-a1-x") == [1]
    assert world.of("finetune_jobs", phase="Running") == [1]
    world.cache.drop_child("Pod", pod)
    assert world.of("finetune_job_pod_info") == []


def test_the_last_loss_of_a_job_that_lived_between_two_scrapes_stays_for_an_hour() -> None:
    world = World(at=100)
    world.put("short", finished(seconds=90))
    assert world.of("finetune_job_loss", name="short") == [0.5]
    assert world.of("finetune_job_eval_loss", name="short") == [0.6]
    assert world.of("finetune_job_eta_seconds", name="short") == []
    world.at = 90 + 3601
    assert world.series_of("short") == {}
    assert world.of("finetune_jobs", phase="Succeeded") == [1]


def test_the_series_of_a_deleted_job_go_with_it() -> None:
    world = World()
    body = world.put("one", running())
    assert world.series_of("one")
    world.cache.drop_finetunejob(body)
    assert world.series_of("one") == {}


@pytest.mark.parametrize("label", [TRIAL, MEMBER])
def test_runs_are_part_of_their_parent(label: str) -> None:
    world = World()
    members = [{"number": 1, "name": "m", "state": "Running"}]
    status = {"phase": "Running"} | ({"trials": TRIALS} if label == TRIAL else {"members": members})
    world.put("parent", status)
    child = child_of("parent", label, "1")
    world.put(child["name"], running(), **child)
    world.put(child["name"], finished(), **child)
    assert world.series_of(child["name"]) == {}
    assert world.of("finetune_jobs") == [1]
    assert world.total("finetune_jobs_finished_total") == 0
    assert world.of("finetune_job_gpu_seconds_total", name="parent") == [2 * 60]


def test_a_search_and_an_ensemble_say_what_their_runs_do() -> None:
    world = World()
    world.put("search", {"phase": "Running", "trials": TRIALS})
    members = [{"number": number, "name": "m", "state": "Succeeded"} for number in (1, 2)]
    model = {"metrics": {"test_accuracy": 0.9}, "combination": COMBINATION}
    world.put("ensemble", finished() | {"members": members, "model": model})
    assert world.of("finetune_search_trials", state="Pruned") == [1]
    assert world.of("finetune_search_best_value", name="search", metric="eval_loss") == [0.4]
    assert world.of("finetune_job_progress_ratio", name="search") == [2 / 8]
    assert world.of("finetune_job_info", name="search", kind="Search") == [1]
    assert world.of("finetune_ensemble_members", name="ensemble", state="Succeeded") == [2]
    assert world.of("finetune_ensemble_gain", name="ensemble") == [0.02]
    assert world.of("finetune_ensemble_value", of="best_member", metric="test_accuracy") == [0.88]


def test_a_search_that_ended_in_an_ensemble_has_room_for_what_the_ensemble_reaches() -> None:
    world = World()
    model = {"metrics": {"test_accuracy": 0.9}, "combination": COMBINATION}
    members = [{"number": number, "name": "m", "state": "Succeeded"} for number in (1, 2)]
    more = {"trials": TRIALS, "members": members, "model": model, "preflight": PREFLIGHT}
    world.put("both", finished(**more, usage={"queuedSeconds": 4}, progress={}, epochs=[]))
    kept = world.series_of("both")
    assert (kept["finetune_ensemble_value"], kept["finetune_ensemble_gain"]) == (3, 1)
    assert kept["finetune_search_trials"] == 6


def test_steps_that_only_the_next_attempt_tells_of_are_counted_with_its_first_report() -> None:
    world = World()
    first = attempt(1, toStep=60, endTime=moment(50), reason="Killed", lostSteps=20)
    world.put("one", running(attempts=[first, attempt(2)]))
    found = first | {"toStep": 75, "lostSteps": 35}
    world.put("one", running(attempts=[found, attempt(2, fromStep=40)]))
    assert world.of("finetune_job_lost_steps_total", namespace="default") == [35]


def test_repeated_steps_lower_the_goodput_and_are_counted_once() -> None:
    world = World()
    first = attempt(1, toStep=60, endTime=moment(50), reason="Preempted")
    world.put("one", running(attempts=[first, attempt(2)]))
    world.put("one", running(attempts=[first, attempt(2, fromStep=40, toStep=50)]))
    world.put("one", running(attempts=[first, attempt(2, fromStep=40, toStep=80)]))
    assert world.of("finetune_job_goodput_ratio", name="one") == [80 / 100]
    assert world.of("finetune_job_lost_steps_total", namespace="default") == [20]


def test_steps_that_an_attempt_repeats_after_an_eviction_are_counted_once() -> None:
    world = World()
    first = attempt(1, fromStep=0, toStep=60, endTime=moment(50), reason="Killed", lostSteps=20)
    evicted = attempt(2, toStep=90, evictions=1, evictedTime=moment(60), lostSteps=30)
    world.put("one", running(attempts=[first, attempt(2)]))
    world.put("one", running(attempts=[first, attempt(2, fromStep=40, toStep=90)]))
    world.put("one", running(attempts=[first, evicted]))
    assert world.of("finetune_job_lost_steps_total", namespace="default") == [20]
    for step in (65, 75):
        world.put("one", running(attempts=[first, evicted | {"fromStep": 60, "toStep": step}]))
    assert world.of("finetune_job_lost_steps_total", namespace="default") == [20 + 30]
    assert world.of("finetune_job_steps_lost", name="one") == [20 + 30]


def test_steps_after_the_last_checkpoint_are_lost_steps_of_the_job() -> None:
    world = World()
    world.put("one", running())
    assert world.of("finetune_job_steps_lost", name="one") == []
    first = attempt(1, toStep=60, endTime=moment(50), reason="Preempted", lostSteps=12)
    second = attempt(2, fromStep=48, toStep=90, endTime=moment(90), reason="Killed", lostSteps=6)
    world.put("one", running(attempts=[first, second, attempt(3)], usage={"queuedSeconds": 45}))
    assert world.of("finetune_job_steps_lost", name="one") == [18]
    assert world.of("finetune_job_queued_seconds", name="one") == [45]


def test_preflight_says_its_result_and_each_try_is_counted_once() -> None:
    world = World()
    world.put("one", {"preflight": {"number": 1}})
    assert world.of("finetune_job_preflight_info", name="one", reason="Running") == [1]
    lost = {"number": 1, "reason": "PodLost", "endTime": moment(10)}
    for seen in (lost, lost, {"number": 2}, PREFLIGHT | {"number": 2}):
        world.put("one", {"preflight": seen})
    world.put("one", running(preflight=PREFLIGHT | {"number": 2}))
    assert world.of("finetune_job_preflight_info", name="one") == [1]
    assert world.of("finetune_job_preflight_info", name="one", reason="Succeeded") == [1]
    assert world.of("finetune_job_preflight_memory_bytes", name="one") == [5_000]
    assert world.total("finetune_job_preflights_total", reason="PodLost") == 1
    assert world.total("finetune_job_preflights_total", reason="Succeeded") == 1
    assert world.total("finetune_job_preflights_total") == 2
    world.put("one", finished(preflight=PREFLIGHT | {"number": 2}))
    assert world.of("finetune_job_preflight_memory_bytes", name="one") == []


def test_an_improvement_is_positive_whether_higher_or_lower_is_better() -> None:
    world = World()
    world.put("higher", finished(improvement=IMPROVEMENT))
    lower = {"metric": "eval_loss", "from": 0.9, "to": 0.7, "delta": -0.2, "ci95": [-0.35, 0.05]}
    world.put("lower", finished(improvement=lower))
    few = {"metric": "loss", "from": 0.9, "to": 1.0, "delta": 0.1}
    world.put("few-rows", finished(improvement=few))
    assert world.of("finetune_job_baseline_value", name="higher", metric="accuracy") == [0.5]
    assert world.of("finetune_job_improvement", name="higher", bound="estimate") == [0.3]
    assert world.of("finetune_job_improvement", name="higher", bound="low") == [0.1]
    assert world.of("finetune_job_improvement", name="lower", bound="estimate", metric="eval_loss") == [0.2]
    assert world.of("finetune_job_improvement", name="lower", bound="low") == [-0.05]
    assert world.of("finetune_job_improvement", name="lower", bound="high") == [0.35]
    assert world.of("finetune_job_improvement", name="few-rows") == [-0.1]


def test_what_everybody_may_write_into_a_status_breaks_no_scrape_and_makes_up_no_label() -> None:
    world = World()
    strange: list[Body] = [
        {"improvement": {"metric": "mine-81723", "from": 1, "delta": 1}},
        {"improvement": {"metric": "accuracy", "from": "x", "delta": None, "ci95": [1, "x", None]}},
        {"preflight": "x", "usage": [], "excludedNodes": [{}, 1, {"node": "n", "until": "x"}]},
        {"preflight": {"reason": "mine-81723", "endTime": moment(1)}, "attempts": [{"lostSteps": "x"}]},
    ]
    for number, status in enumerate(strange):
        world.put(f"job-{number}", {})
        world.put(f"job-{number}", status)
    assert "mine-81723" not in b"".join(world.metrics.expose()).decode()
    assert world.of("finetune_excluded_node_jobs") == []
    assert world.of("finetune_job_preflight_info", reason="Unknown") == [1]


def test_jobs_are_counted_by_the_nodes_that_they_avoid_until_they_end() -> None:
    world = World()
    bad, over = ({"node": node, "until": moment(until)} for node, until in (("gpu-7", 900), ("gpu-8", 60)))
    world.put("one", running(excludedNodes=[bad, over]))
    world.put("two", running(excludedNodes=[bad]))
    assert world.of("finetune_excluded_node_jobs", node="gpu-7") == [2]
    assert world.of("finetune_excluded_node_jobs", node="gpu-8") == []
    world.put("two", finished(excludedNodes=[bad]))
    assert world.of("finetune_excluded_node_jobs", node="gpu-7") == [1]
    many = [{"node": f"n-{number}", "until": moment(900)} for number in range(200)]
    world.put("three", running(excludedNodes=many))
    assert len(world.of("finetune_excluded_node_jobs")) == 50


def test_every_reason_is_one_of_an_end_or_not() -> None:
    """A counter begins with each end: increase() does not see the first value of a new series."""
    assert set(ENDS) | NO_ENDS == set(Reason)
    assert not set(ENDS) & NO_ENDS


def test_an_end_is_counted_once_whoever_shows_it() -> None:
    world = World()
    world.put("one", {})
    world.put("one", running())
    world.put("one", finished(phase="Failed", reason="OutOfMemory"))
    world.put("one", finished(phase="Failed", reason="OutOfMemory"))  # the watch event after our own write
    assert world.total("finetune_jobs_finished_total") == 1
    assert world.of("finetune_jobs_finished_total", result="Failed", reason="OutOfMemory") == [1]
    assert world.of("finetune_job_attempts_total", reason="OutOfMemory") == [1]
    assert world.of("finetune_job_queue_wait_seconds_sum") == [30]
    assert world.of("finetune_job_duration_seconds_sum", result="Failed") == [90]


def test_after_a_restart_nothing_is_counted_again_and_what_statuses_say_goes_on() -> None:
    before, after = World(), World()
    before.put("one", running())
    before.put("one", finished())
    after.put("one", finished())  # the first LIST of the next process
    assert before.total("finetune_jobs_finished_total") == 1
    assert after.total("finetune_jobs_finished_total") == 0
    assert after.total("finetune_job_duration_seconds_count") == 0
    assert after.of("finetune_job_gpu_seconds_total") == before.of("finetune_job_gpu_seconds_total") == [120]


def test_a_job_that_ended_while_the_operator_was_down_is_counted_by_the_next_one() -> None:
    world = World()
    world.put("one", running())  # the first LIST: its end is not written yet
    world.put("one", finished())
    assert world.total("finetune_jobs_finished_total") == 1


def test_counters_are_exposed_before_they_count() -> None:
    """Prometheus' increase() does not see the first value of a new series."""
    world = World()
    world.put("one", running())
    before = {series for series in world.samples() if series[0].endswith("_total")}
    world.put("one", finished(phase="Failed", reason="OutOfMemory"))
    assert {series for series in world.samples() if series[0].endswith("_total")} == before


def test_a_job_of_the_same_name_is_another_job() -> None:
    world = World()
    world.put("one", running())
    world.put("one", finished(), uid="another")
    assert world.total("finetune_jobs_finished_total") == 0


def test_ten_thousand_jobs_have_a_bounded_number_of_series() -> None:
    world = World(at=3000)
    metrics = {f"metric_{number}": 0.5 for number in range(METRICS_KEPT)}
    many = {"epochs": [{"epoch": 1, "step": 1, "evalLoss": 0.6, "metrics": metrics}]}
    many |= {"preflight": PREFLIGHT, "improvement": IMPROVEMENT, "model": {"metrics": metrics}}
    for number in range(10_000):
        status = running(**many) if number < 500 else finished(seconds=number / 4, **many)
        world.put(f"job-{number}", status)
    samples = world.samples()
    per_job = Counter(dict(labels)["name"] for _, labels in samples if "name" in dict(labels))
    assert max(per_job.values()) == SERIES_KEPT == 25
    assert len(per_job) == 500 + FINISHED_KEPT == 1500
    assert "job-9999" in per_job, "the newest are kept"
    assert samples["finetune_operator_finished_jobs_dropped", frozenset()] == 8500
    assert samples["finetune_operator_job_series_dropped", frozenset()] > 1500 * 10
    assert sum(value for (name, _), value in samples.items() if name == "finetune_jobs") == 10_000
    assert len(samples) - sum(per_job.values()) < 300


def test_the_pods_of_a_job_on_many_nodes_leave_room_for_its_figures() -> None:
    world = World()
    world.put("one", running())
    for number in range(64):
        pod = pod_of("one", "Running")
        pod["metadata"] |= {"name": f"one-a1-{number}-x", "uid": f"p{number}"}
        world.cache.put_child("Pod", pod)
    kept = world.series_of("one")
    assert kept["finetune_job_pod_info"] == 8
    assert kept["finetune_job_loss"] == 1
    assert world.samples()["finetune_operator_job_series_dropped", frozenset()] == 56


def test_what_a_job_cannot_be_without_is_among_its_first_series() -> None:
    world = World()
    metrics = {f"m{number}": 0.5 for number in range(METRICS_KEPT)}
    lost = attempt(2, endTime=moment(80), lostSteps=3)
    new = {"preflight": PREFLIGHT, "improvement": IMPROVEMENT, "usage": {"goodput": 0.9, "queuedSeconds": 4}}
    old = {"epochs": [{"evalLoss": 0.6, "metrics": metrics}], "model": {"metrics": metrics}}
    world.put("one", finished(**old, **new, attempts=[lost]))
    kept = world.series_of("one")
    assert kept.total() == SERIES_KEPT
    first = ("info", "state", "loss", "eval_loss", "goodput_ratio", "steps_lost", "preflight_info")
    assert {f"finetune_job_{name}" for name in first} <= set(kept)
    assert kept["finetune_job_improvement"] == 3
    assert kept["finetune_job_model_metric"] >= 3, "the published model's, which are not in the last epoch"
    assert kept["finetune_job_eval_metric"] == 0


def test_no_label_takes_a_value_that_somebody_made_up() -> None:
    world = World()
    world.put("one", running())
    invented = finished(phase="Failed", reason="MyReason-81723")
    world.put("one", invented | {"phase": "MyPhase"})
    assert "MyReason" not in b"".join(world.metrics.expose()).decode()
    assert "MyPhase" not in b"".join(world.metrics.expose()).decode()


def everything() -> World:
    """A world in which every metric has a series."""
    world = World()
    world.metrics.request("GET", 200)
    world.metrics.watch_ages(lambda: Watches(lambda: 0.0).ages(None))
    world.cache.unserved["other"] = "forbidden"
    world.put("one", running(), job("one", activeDeadlineSeconds=600))
    world.put("script", running(), script_job("script"))
    first = attempt(1, toStep=60, endTime=moment(50), reason="Preempted")
    world.put("two", running(attempts=[first, attempt(2)]))
    progress = running()["progress"] | {"metrics": {"bleu": 0.3}}
    avoided = [{"node": "gpu-7", "until": moment(900)}]
    usage = {"queuedSeconds": 30, "goodput": 0.9}
    first["lostSteps"] = 20
    more: Body = {"preflight": PREFLIGHT, "usage": usage, "excludedNodes": avoided}
    world.put("two", running(attempts=[first, attempt(2, fromStep=40)], progress=progress, **more))
    world.put("done", running())
    model = {"metrics": {"eval_loss": 0.5}, "combination": COMBINATION}
    world.put("done", finished(model=model, improvement=IMPROVEMENT))
    world.put("search", {"phase": "Running", "trials": TRIALS})
    world.put("ensemble", {"members": [{"state": state.value} for state in TrialState]})
    world.cache.put_child("Pod", pod_of("one", "Pending"))
    return world


def test_every_metric_is_exposed_as_it_is_defined_and_no_other_is() -> None:
    found = {
        name: family for name, family in everything().families().items() if not name.startswith("process_")
    }
    found = {name: family for name, family in found.items() if not name.endswith("_created")}
    defined = {one.name.removesuffix("_total"): one for one in definitions()}
    assert set(found) == set(defined)
    for name, family in found.items():
        one = defined[name]
        labels = {label for sample in family.samples for label in sample.labels if label != "le"}
        assert (family.type, family.documentation, labels) == (one.kind, one.help, set(one.labels)), name
    assert {one.labels["phase"] for one in found["finetune_jobs"].samples} <= set(Phase)


@pytest.mark.parametrize("one", [*definitions(), *trainer.definitions()], ids=lambda one: one.name)
def test_a_name_follows_the_rules_of_prometheus(one: Definition) -> None:
    assert re.fullmatch("finetune(_[a-z]+)+", one.name)
    assert (one.kind is Kind.COUNTER) == one.name.endswith("_total")
    base = one.name.removesuffix("_total")
    assert base.endswith("_timestamp_seconds") == (one.unit is Unit.TIMESTAMP)
    assert base.endswith("_seconds") == (one.unit in (Unit.SECONDS, Unit.TIMESTAMP))
    assert base.endswith("_bytes") == (one.unit is Unit.BYTES)
    assert base.endswith("_ratio") == (one.unit is Unit.RATIO)
    assert bool(one.buckets) == (one.kind is Kind.HISTOGRAM)
    assert list(one.buckets) == sorted(set(one.buckets))


def test_names_are_unique_over_both_sides() -> None:
    names = [one.name for one in [*definitions(), *trainer.definitions()]]
    assert len(names) == len(set(names))


def test_what_is_known_is_as_old_as_the_last_event_or_comparison() -> None:
    now = [100.0]
    watches = Watches(lambda: now[0])
    now[0] = 110.0
    assert watches.ages(None) == dict.fromkeys(KINDS, 10.0), "since the process started"
    watches.event("Pod")
    now[0] = 130.0
    assert watches.ages(105.0) == {"FineTuneJob": 25.0, "Job": 25.0, "Pod": 20.0}
    assert watches.ages(125.0) == dict.fromkeys(KINDS, 5.0)


def test_the_queue_is_a_label_and_a_second_wait_is_counted_from_the_eviction() -> None:
    world, queued = World(), job("one", scheduling={"queue": "team-a"})
    world.put("one", {}, queued)
    assert world.of("finetune_job_info", name="one", queue="team-a") == [1]
    world.put("one", running(), queued)
    evicted = attempt(runningTime=None, evictedTime=moment(50), evictions=1)
    world.put("one", running(attempts=[evicted]), queued)
    assert world.of("finetune_job_gpu_seconds_total", name="one") == [0]
    world.put("one", running(attempts=[evicted | {"runningTime": moment(57)}]), queued)
    assert world.of("finetune_job_queue_wait_seconds_sum", queue="team-a") == [30 + 7]
    assert world.of("finetune_job_queue_wait_seconds_count", queue="") == [0]


def test_a_standby_exposes_no_jobs_and_counts_nothing_so_that_sums_over_replicas_are_right() -> None:
    world, leads = World(), False
    world.metrics = Metrics(world.cache, lambda: T0 + timedelta(seconds=120), lambda: leads)
    world.put("one", running())
    world.put("one", finished())
    leader = "finetune_operator_leader", frozenset[tuple[str, str]]()
    samples = world.samples()
    assert samples[leader] == 0
    assert "finetune_jobs" not in world.families()
    begun = {name: value for (name, _), value in samples.items() if name.startswith("finetune_job")}
    assert {value for name, value in begun.items() if not name.endswith("_created")} == {0}
    leads = True
    assert world.samples()[leader] == 1
    assert "finetune_jobs" in world.families()
    world.put("two", running())
    world.put("two", finished())
    ended = [value for (name, _), value in world.samples().items() if name == "finetune_jobs_finished_total"]
    assert sum(ended) == 1


def test_the_page_has_what_the_client_library_would_write() -> None:
    labels, value = ('back\\slash "quoted"', "two\nlines"), 1234567.0
    metric = Definition("finetune_any_total", Kind.COUNTER, "Any\nhelp \\", ("one", "other"))
    page = Page()
    page.add(metric, labels, value)
    page.add(Definition("finetune_other", Kind.GAUGE, "Other"), (), float("nan"))
    page.add(metric, ("a", "b"), 0)
    counter = CounterMetricFamily("finetune_any", metric.help, labels=metric.labels)
    counter.add_metric(labels, value)
    counter.add_metric(("a", "b"), 0)
    gauge = GaugeMetricFamily("finetune_other", "Other", value=float("nan"))

    class Library(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from (counter, gauge)

    assert b"".join(page.parts()) == generate_latest(Library())
