"""Conditions: exactly those of the API's page, and what tools that know nothing of us read from them (kstatus)."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_api.status import ConditionType
from unit.operator.worlds import (
    REPORT,
    T0,
    Life,
    child,
    condition,
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

ALWAYS = ["Running", "Complete", "Failed", "Suspended", "Finished"]


def newborn() -> Life:
    return Life()


def accepted() -> Life:
    life = Life()
    life.reconcile()
    return life


def pending() -> Life:
    life = accepted()
    life.reconcile(seen(child(), pod(unschedulable="no")), at=5)
    return life


def running() -> Life:
    return Life().running()


def waiting_to_retry() -> Life:
    life = running()
    life.reconcile(over(70), at=60)
    return life


def stopping() -> Life:
    life = running().change(suspend=True)
    life.reconcile(seen(child(), running_pod()), at=5)
    return life


def suspended() -> Life:
    life = stopping()
    life.reconcile(seen(ended_pod(75, deleted=True)), at=6)
    return life


def succeeded() -> Life:
    life = running()
    life.reconcile(over(0, report=REPORT), at=60)
    return life


def failed() -> Life:
    life = running()
    life.reconcile(over(65), at=60)
    return life


STATES = [
    (accepted, {"Reconciling"}, "InProgress"),
    (pending, {"Reconciling"}, "InProgress"),
    (running, {"Running", "Reconciling"}, "InProgress"),
    (waiting_to_retry, {"Reconciling"}, "InProgress"),
    (stopping, {"Reconciling"}, "InProgress"),
    (suspended, {"Suspended"}, "Current"),
    (succeeded, {"Complete", "Finished"}, "Current"),
    (failed, {"Failed", "Finished", "Stalled"}, "Failed"),
]


@pytest.mark.parametrize(("state", "true", "_"), STATES, ids=lambda one: getattr(one, "__name__", ""))
def test_every_state_has_exactly_these_conditions(state: Any, true: set[str], _: str) -> None:
    status = state().status
    assert true_conditions(status) == true
    kinds = [str(one.type) for one in status.conditions]
    assert kinds == ALWAYS + [kind for kind in ("Reconciling", "Stalled") if kind in true]
    for one in status.conditions:
        assert one.reason.isalnum()
        assert one.reason[0].isupper()
        assert one.observed_generation == status.observed_generation


def kstatus(body: dict[str, Any]) -> str:
    """How kstatus reads a custom resource (sigs.k8s.io/cli-utils, pkg/kstatus: generic rules)."""
    status = body.get("status", {})
    if "deletionTimestamp" in body["metadata"]:
        return "Terminating"
    if status.get("observedGeneration", body["metadata"]["generation"]) != body["metadata"]["generation"]:
        return "InProgress"
    true = {one["type"]: one["status"] for one in status.get("conditions", [])}
    if true.get("Reconciling") == "True":
        return "InProgress"
    if true.get("Stalled") == "True":
        return "Failed"
    if "Ready" in true:
        return "Current" if true["Ready"] == "True" else "InProgress"
    return "Current"


def wire(life: Life) -> dict[str, Any]:
    return {"metadata": {"generation": life.job.generation}, "status": life.status.to_json()}


@pytest.mark.parametrize(("state", "_", "reading"), STATES, ids=lambda one: getattr(one, "__name__", ""))
def test_kstatus_reads_every_state_as_people_do(state: Any, _: set[str], reading: str) -> None:
    assert kstatus(wire(state())) == reading


def test_a_newborn_is_in_progress_for_kstatus_before_any_operator_saw_it() -> None:
    assert newborn().status.observed_generation == -1
    assert kstatus(wire(newborn())) == "InProgress"


@pytest.mark.parametrize(("state", "_", "reading"), STATES, ids=lambda one: getattr(one, "__name__", ""))
def test_a_change_of_the_spec_is_in_progress_until_it_was_seen(state: Any, _: set[str], reading: str) -> None:
    life = state().change(ttl_seconds_after_finished=10**6)
    assert kstatus(wire(life)) == "InProgress"
    if reading == "Failed" or state is succeeded:
        life.reconcile(at=61)
        assert kstatus(wire(life)) == reading


def test_the_time_of_a_condition_moves_only_with_its_status() -> None:
    life = Life(settings=settings(retry_backoff=10))
    times = []
    steps = [
        (0, seen()),
        (5, seen(child(), pod(unschedulable="no"))),
        (10, seen(child(), running_pod(since=seconds(10)))),
        (60, over(70, at=seconds(60))),
        (70, seen()),
        (80, seen(child(2), running_pod(2, since=seconds(80)))),
        (90, over(0, 2, report=REPORT, at=seconds(90), started=seconds(80))),
        (99, seen()),
    ]
    for at, observation in steps:
        life.reconcile(observation, at=at)
        moved = condition(life.status, ConditionType.RUNNING).last_transition_time - T0
        times.append(int(moved.total_seconds()))
    assert times == [0, 0, 10, 60, 60, 80, 90, 90]
    assert condition(life.status, ConditionType.SUSPENDED).last_transition_time == T0
    assert condition(life.status, ConditionType.COMPLETE).last_transition_time == seconds(90)


def test_finished_has_one_of_two_reasons() -> None:
    assert condition(succeeded().status, ConditionType.FINISHED).reason == "Succeeded"
    assert condition(failed().status, ConditionType.FINISHED).reason == "Failed"
    assert condition(failed().status, ConditionType.FAILED).reason == "DataError"


def test_a_status_without_conditions_gets_them_again() -> None:
    life = running()
    life.job = replace(life.job, status=life.status.model_copy(update={"conditions": []}))
    life.reconcile(seen(child(), running_pod()), at=30)
    assert true_conditions(life.status) == {"Running", "Reconciling"}


def test_the_columns_say_what_the_conditions_say() -> None:
    life = Life(parsed(resources={"gpusPerNode": 1})).running()
    assert life.status.display
    assert (life.status.display.gpus, life.status.display.message) == ("1×1", life.message)
