"""Preflight on a real node: what would fail on a GPU fails before one is asked for."""

from typing import Any

from e2e.jobs import Jobs, condition, tiny

GPU: dict[str, Any] = {"preflight": "Required", "resources": {"gpusPerNode": 1}}


def asks_for_gpus(jobs: Jobs, name: str) -> bool:
    return "nvidia.com/gpu" in str([*jobs.children("jobs", name), *jobs.children("pods", name)])


def test_bad_rows_fail_the_job_before_a_pod_with_a_gpu_exists(jobs: Jobs) -> None:
    jobs.apply("bad-rows", tiny(data="broken.jsonl", **GPU))
    status = jobs.wait_phase("bad-rows", "Failed")
    failed = condition(status, "Failed")
    assert failed["reason"] == "DataError"
    assert "row 7" in failed["message"]
    assert status["preflight"]["exitCode"] == 65
    assert status["attempts"] == []
    assert not asks_for_gpus(jobs, "bad-rows")


def test_a_good_job_says_what_was_found_and_trains_on_its_gpu(jobs: Jobs) -> None:
    jobs.apply("good-rows", tiny(steps=2, **GPU))
    status = jobs.wait_phase("good-rows", "Succeeded")
    found = status["preflight"]
    assert (found["reason"], found["labels"]) == ("Succeeded", 2)
    assert found["memory"]["total"] > found["memory"]["activations"] > 0
    assert asks_for_gpus(jobs, "good-rows")
    assert status["attempts"][0]["number"] == 1
