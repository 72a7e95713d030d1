"""What a user is told: one sentence that says what is wrong, where, and what to change."""

import pytest

from e2e.jobs import Jobs, condition, tiny


@pytest.fixture(scope="module")
def begun(jobs: Jobs) -> Jobs:
    """Jobs that fail or wait side by side: each takes seconds to start its pod."""
    jobs.apply("bad-data", tiny(data="broken.jsonl"))
    jobs.apply("no-model", tiny(model={"uri": "pvc://demo/models/absent"}))
    jobs.apply("no-claim", tiny(model={"uri": "pvc://absent/models/tiny"}))
    jobs.apply("absent-gpu", tiny(resources={"gpuResource": "example.com/gpu", "gpusPerNode": 1}))
    return jobs


def test_bad_data_fails_at_once_with_the_file_and_the_row(begun: Jobs) -> None:
    status = begun.wait_phase("bad-data", "Failed")
    failed = condition(status, "Failed")
    assert failed["reason"] == "DataError"
    assert "pvc://demo/data/broken.jsonl" in failed["message"]
    assert "7" in failed["message"]
    assert [attempt["exitCode"] for attempt in status["attempts"]] == [65]
    assert condition(status, "Stalled")["status"] == "True"


def test_a_missing_model_folder_fails_at_once_and_names_it(begun: Jobs) -> None:
    status = begun.wait_phase("no-model", "Failed")
    assert condition(status, "Failed")["reason"] == "NotFound"
    assert "pvc://demo/models/absent" in condition(status, "Failed")["message"]


def test_a_missing_claim_is_the_pending_sentence(begun: Jobs) -> None:
    status = begun.wait(
        "no-claim", "reported", lambda s: "absent" in (s.get("display") or {}).get("message", "")
    )
    assert status["phase"] == "Pending"
    assert condition(status, "Running")["reason"] == "MissingObject"
    begun.platform.kubectl("delete", "ftj", "no-claim", "-n", begun.namespace)


def test_a_gpu_that_no_node_has_is_the_pending_sentence_with_the_remedy(begun: Jobs) -> None:
    status = begun.wait(
        "absent-gpu", "reported", lambda s: "gpusPerNode: 0" in (s.get("display") or {}).get("message", "")
    )
    assert condition(status, "Running")["reason"] == "Unschedulable"
    begun.platform.kubectl("delete", "ftj", "absent-gpu", "-n", begun.namespace)


def test_an_image_that_cannot_be_pulled_is_the_pending_sentence(jobs: Jobs) -> None:
    trainer = jobs.platform.images["trainer"]
    missing = f"{trainer.rpartition(':')[0]}:absent"
    jobs.platform.install_operator("defaults.output.size=1Gi", f"trainer.allowedImages={{{missing}}}")
    jobs.apply("no-image", tiny(image=missing))
    status = jobs.wait(
        "no-image", "reported", lambda s: "cannot be pulled" in (s.get("display") or {}).get("message", "")
    )
    assert condition(status, "Running")["reason"] == "ImagePullFailed"
    jobs.platform.kubectl("delete", "ftj", "no-image", "-n", jobs.namespace)


def test_an_image_that_the_administrator_does_not_allow_fails_at_once(jobs: Jobs) -> None:
    jobs.apply("other-image", tiny(image="docker.io/somebody/trainer:latest"))
    status = jobs.wait_phase("other-image", "Failed")
    assert condition(status, "Failed")["reason"] == "ImageNotAllowed"
    assert jobs.children("job", "other-image") == []
