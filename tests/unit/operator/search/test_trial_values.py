"""The value that a trial is compared by: that of the model that it published."""

from typing import Any

import pytest

from finetune_api.status import TrialState
from finetune_core.search.trials import trial_of

Json = dict[str, Any]
ENDED: Json = {
    "phase": "Succeeded",
    "completionTime": "2026-01-01T00:00:00Z",
    "display": {"message": "the model is at pvc://out/model"},
    "bestCheckpoint": {"step": 5, "metric": "eval_loss", "value": 0.1},
}


def trial(**status: Any) -> Any:
    return trial_of(1, {"metadata": {"name": "tune-t1"}, "status": ENDED | status}, [], "eval_loss")


def accepted(attempt: int, reason: str = "Accepted") -> Json:
    condition = {"type": "Running", "status": "False", "reason": reason}
    return {"phase": "Pending", "attempt": attempt, "conditions": [condition]}


def test_the_value_is_that_of_the_published_model_and_not_of_a_better_checkpoint_that_was_not() -> None:
    """Without early stopping the last weights are published, whatever the best ones were."""
    assert trial(model={"metrics": {"eval_loss": 0.7}}).value == 0.7


def test_a_model_without_a_value_is_no_candidate_however_good_an_earlier_checkpoint_was() -> None:
    found = trial(model={"metrics": {"eval_accuracy": 0.5}})
    assert (found.state, found.value) == (TrialState.FAILED, None)
    assert found.message.startswith("eval_loss is not defined for its model, so it cannot be compared")


def test_before_there_is_a_model_the_best_checkpoint_counts() -> None:
    running = trial(phase="Running", completionTime=None)
    assert (running.state, running.value) == (TrialState.RUNNING, 0.1)


@pytest.mark.parametrize(
    ("status", "begins"),
    [
        ({}, True),
        (accepted(1), True),
        (accepted(2), False),
        (accepted(1, "Unschedulable"), False),
        (accepted(1, "Starting"), False),
    ],
)
def test_a_trial_begins_until_it_has_something_to_say(status: Json, *, begins: bool) -> None:
    assert trial_of(1, {"metadata": {"name": "tune-t1"}, "status": status}, [], "eval_loss").begins is begins


def test_device_seconds_are_those_of_ended_attempts() -> None:
    resources = {"nodes": 2, "gpusPerNode": 4}
    attempts = [
        {"number": 1, "gpuSeconds": 90, "endTime": "2026-01-01T00:02:00Z"},
        {"number": 2, "gpuSeconds": 40},
    ]
    status = {"usage": {"gpuSeconds": 130}, "attempts": attempts, "effective": {"resources": resources}}
    found = trial_of(1, {"metadata": {"name": "tune-t1"}, "status": status}, [], "eval_loss")
    assert (found.device_seconds, found.devices) == (90, 8)
    empty = trial_of(1, {"metadata": {"name": "tune-t1"}}, [], "eval_loss")
    assert (empty.device_seconds, empty.devices) == (None, None)
