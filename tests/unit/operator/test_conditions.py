"""Conditions: exactly those of the API's page."""

from dataclasses import replace

import pytest

from finetune_api.run import RunReport
from finetune_api.status import BaselineKind, BaselineStatus, ConditionType, ImprovementStatus
from unit.operator.states import SEEN, State
from unit.operator.worlds import (
    REPORT,
    T0,
    Life,
    child,
    condition,
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


def improvement(metric: str, delta: float, ci95: list[float] | None) -> RunReport:
    baseline = BaselineStatus(kind=BaselineKind.UNTRAINED_MODEL, metrics={})
    found = ImprovementStatus(metric=metric, from_=0.5, to=0.5 + delta, delta=delta, ci95=ci95)
    return REPORT.model_copy(update={"baseline": baseline, "improvement": found})


@pytest.mark.parametrize(
    ("metric", "delta", "ci95", "status", "reason"),
    [
        ("eval_accuracy", 0.2, [0.1, 0.3], "True", "Improved"),
        ("eval_loss", -0.2, [-0.3, -0.1], "True", "Improved"),
        ("eval_accuracy", 0.2, [-0.1, 0.3], "Unknown", "WithinUncertainty"),
        ("eval_accuracy", 0.2, None, "Unknown", "WithinUncertainty"),
        ("eval_accuracy", 0.0, [-0.1, 0.1], "False", "NotImproved"),
        ("eval_loss", 0.2, [0.1, 0.3], "False", "NotImproved"),
    ],
)
def test_improved_says_whether_training_gained_anything(
    metric: str, delta: float, ci95: list[float] | None, status: str, reason: str
) -> None:
    life = running()
    life.reconcile(over(0, report=improvement(metric, delta, ci95)), at=30)
    found = condition(life.job.status, ConditionType.IMPROVED)
    assert (found.status, found.reason) == (status, reason)
    assert found.message.startswith(f"{metric} {0.5 + delta:.4g}, against 0.5 of the model before training")
    assert found.message in condition(life.job.status, ConditionType.COMPLETE).message


def running() -> Life:
    return Life().running()


def succeeded() -> Life:
    life = running()
    life.reconcile(over(0, report=REPORT), at=60)
    return life


def failed() -> Life:
    life = running()
    life.reconcile(over(65), at=60)
    return life


@pytest.mark.parametrize("state", SEEN, ids=str)
def test_every_state_has_exactly_these_conditions(state: State) -> None:
    status = state.life().status
    assert true_conditions(status) == state.true
    kinds = [str(one.type) for one in status.conditions]
    assert kinds == ALWAYS + [kind for kind in ("Reconciling", "Stalled") if kind in state.true]
    for one in status.conditions:
        assert one.reason.isalnum()
        assert one.reason[0].isupper()
        assert one.observed_generation == status.observed_generation


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
