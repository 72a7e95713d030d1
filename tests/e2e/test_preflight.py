"""Preflight on a real node: what would fail on a GPU fails before one is asked for.

And both ways of a run's configuration to its pods, which preflight and attempt share.
"""

from typing import Any

import pytest

from e2e.jobs import Jobs, condition, tiny

MANY_LABELS = {"classification": {"labels": ["neg", "pos", *(f"{number:0128}" for number in range(150))]}}
GPU: dict[str, Any] = {"preflight": "Required", "resources": {"gpusPerNode": 1}}


def asks_for_gpus(jobs: Jobs, name: str) -> bool:
    return "nvidia.com/gpu" in str([*jobs.children("jobs", name), *jobs.children("pods", name)])


@pytest.fixture(scope="module")
def begun(jobs: Jobs) -> Jobs:
    """Two jobs side by side: each takes seconds to start its pods."""
    jobs.apply("bad-rows", tiny(data="broken.jsonl", **GPU))
    jobs.apply("good-rows", tiny(steps=2, **GPU))
    jobs.apply("many-labels", tiny(steps=2, objective=MANY_LABELS, **GPU))
    return jobs


def test_bad_rows_fail_the_job_before_a_pod_with_a_gpu_exists(begun: Jobs) -> None:
    status = begun.wait_phase("bad-rows", "Failed")
    failed = condition(status, "Failed")
    assert failed["reason"] == "DataError"
    assert "row 7" in failed["message"]
    assert status["preflight"]["exitCode"] == 65
    assert status["attempts"] == []
    assert not asks_for_gpus(begun, "bad-rows")


def test_a_good_job_says_what_was_found_and_trains_on_its_gpu(begun: Jobs) -> None:
    status = begun.wait_phase("good-rows", "Succeeded")
    found = status["preflight"]
    assert (found["reason"], found["labels"]) == ("Succeeded", 2)
    assert "measured" in found["time"]["basis"], "its GPU is simulated"
    assert found["memory"]["total"] > found["memory"]["activations"] > 0
    assert asks_for_gpus(begun, "good-rows")
    assert status["attempts"][0]["number"] == 1


def test_a_small_configuration_needs_no_config_map_and_a_large_one_has_one(begun: Jobs) -> None:
    begun.wait_phase("good-rows", "Succeeded")
    status = begun.wait_phase("many-labels", "Succeeded")
    assert status["preflight"]["labels"] == 152
    assert begun.children("configmaps", "good-rows") == []
    assert len(begun.children("configmaps", "many-labels")) == 2
