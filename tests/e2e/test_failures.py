"""What a user is told: one sentence that says what is wrong, where, and what to change."""

from typing import Any

import pytest

from e2e.jobs import Jobs, condition, tiny

DRIVER = "not-installed.example.com"


@pytest.fixture(scope="module")
def begun(jobs: Jobs) -> Jobs:
    """Jobs that fail or wait side by side: each takes seconds to start its pod."""
    jobs.apply("bad-data", tiny(data="broken.jsonl"))
    jobs.apply("no-model", tiny(model={"uri": "pvc://demo/models/absent"}))
    jobs.apply("no-claim", tiny(model={"uri": "pvc://absent/models/tiny"}))
    make_unmountable_claim(jobs)
    jobs.apply("no-driver", tiny(model={"uri": "pvc://unmountable/models/tiny"}))
    jobs.apply("absent-gpu", tiny(resources={"gpuResource": "example.com/gpu", "gpusPerNode": 1}))
    return jobs


def make_unmountable_claim(jobs: Jobs) -> None:
    """A bound claim whose CSI driver no node has. It need not be attached first, which would take minutes to fail."""
    driver = {"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": DRIVER}}
    jobs.platform.apply(driver | {"spec": {"attachRequired": False}})
    shared: dict[str, Any] = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = shared | {"capacity": {"storage": "1Gi"}, "csi": {"driver": DRIVER, "volumeHandle": "one"}}
    claim = shared | {"resources": {"requests": {"storage": "1Gi"}}, "volumeName": "unmountable"}
    named = {"apiVersion": "v1", "metadata": {"name": "unmountable"}}
    jobs.platform.apply(named | {"kind": "PersistentVolume", "spec": volume})
    named["metadata"] |= {"namespace": jobs.namespace}
    jobs.platform.apply(named | {"kind": "PersistentVolumeClaim", "spec": claim})


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


def test_a_volume_that_the_node_cannot_mount_is_the_pending_sentence(begun: Jobs) -> None:
    status = begun.wait(
        "no-driver", "reported", lambda s: "cannot be mounted" in (s.get("display") or {}).get("message", "")
    )
    running = condition(status, "Running")
    assert running["reason"] == "StorageFailed"
    assert running["message"].startswith("the claim unmountable (spec.model.uri) cannot be mounted on node")
    assert DRIVER in running["message"]
    assert "install that CSI driver on the node" in running["message"]
    begun.platform.kubectl("delete", "ftj", "no-driver", "-n", begun.namespace)
    begun.platform.kubectl("delete", "pvc", "unmountable", "-n", begun.namespace)
    begun.platform.kubectl("delete", "pv/unmountable", f"csidriver/{DRIVER}")


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
