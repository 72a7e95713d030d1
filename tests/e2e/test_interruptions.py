"""Real failures on a real node: killed operators and pods, suspension, deletion, an upgrade in mid-run."""

import time

from e2e.jobs import GRACE_SECONDS, Jobs, tiny
from finetune_demo.platform import SYSTEM

_LONG = 1200  # steps of the tiny model: half a minute, enough to interrupt


def test_an_operator_killed_in_mid_run_starts_no_second_attempt_and_its_standby_goes_on(jobs: Jobs) -> None:
    holder = ("get", "lease", "-n", SYSTEM, "finetune-operator", "-o", "jsonpath={.spec.holderIdentity}")
    scale = ("scale", "deployment/finetune-operator", "-n", SYSTEM)
    rollout = ("rollout", "status", "-n", SYSTEM, "deployment/finetune-operator", "--timeout=300s")
    jobs.platform.kubectl(*scale, "--replicas=2")
    jobs.platform.kubectl(*rollout)
    jobs.apply("operator-killed", tiny(_LONG))
    jobs.wait_step("operator-killed", 20)
    leader = jobs.platform.kubectl(*holder)
    jobs.platform.kubectl("delete", "pod", "-n", SYSTEM, leader, "--force", "--grace-period=0")
    status = jobs.wait_phase("operator-killed", "Succeeded")
    assert len(status["attempts"]) == 1
    assert len(jobs.children("job", "operator-killed")) == 1
    assert jobs.platform.kubectl(*holder) not in ("", leader)
    jobs.platform.kubectl(*scale, "--replicas=1")
    jobs.platform.kubectl(*rollout)


def test_a_killed_training_pod_is_followed_by_an_attempt_from_its_checkpoint(jobs: Jobs) -> None:
    jobs.apply("pod-killed", tiny(_LONG))
    jobs.wait_step("pod-killed", 40)
    (pod,) = jobs.children("pod", "pod-killed")
    jobs.platform.kubectl(
        "delete", "pod", "-n", jobs.namespace, pod["metadata"]["name"], "--force", "--grace-period=0"
    )
    status = jobs.wait_phase("pod-killed", "Succeeded")
    assert [attempt["number"] for attempt in status["attempts"]] == [1, 2]
    assert status["attempts"][1]["fromStep"] >= 40
    assert status["attempts"][1]["toStep"] == _LONG


def test_a_pod_that_is_asked_to_stop_saves_in_the_time_it_has_and_the_retry_is_free(jobs: Jobs) -> None:
    """The grace period is what the job promises, not a figure of speed."""
    jobs.apply("pod-stopped", tiny(_LONG))
    jobs.wait_step("pod-stopped", 20)
    (pod,) = jobs.children("pod", "pod-stopped")
    asked = time.monotonic()
    jobs.platform.kubectl("delete", "pod", "-n", jobs.namespace, pod["metadata"]["name"], "--wait=true")
    assert time.monotonic() - asked < GRACE_SECONDS, "the container outlived its grace period"
    status = jobs.wait_phase("pod-stopped", "Succeeded")
    first, second = status["attempts"]
    assert (first["reason"], first["exitCode"], first["counted"]) == ("Interrupted", 75, False)
    assert second["fromStep"] == first["toStep"] > 20
    assert "retries" not in status


def test_suspend_saves_and_releases_the_pod_and_resume_goes_on(jobs: Jobs) -> None:
    jobs.apply("suspended", tiny(_LONG))
    jobs.wait_step("suspended", 20)
    jobs.patch("suspended", '{"suspend": true}')
    status = jobs.wait_phase("suspended", "Suspended")
    assert jobs.children("pod", "suspended") == []
    assert status["attempts"][0]["counted"] is False
    jobs.patch("suspended", '{"suspend": false}')
    status = jobs.wait_phase("suspended", "Succeeded")
    assert status["attempts"][1]["fromStep"] >= 20


def test_a_job_is_deleted_with_its_children_while_the_operator_is_down(jobs: Jobs) -> None:
    jobs.apply("deleted", tiny(_LONG))
    status = jobs.wait_phase("deleted", "Running")
    scale = ("scale", "deployment/finetune-operator", "-n", SYSTEM)
    jobs.platform.kubectl(*scale, "--replicas=0")
    try:
        jobs.platform.kubectl("delete", "ftj", "deleted", "-n", jobs.namespace, "--timeout=60s")
        deadline = time.monotonic() + 90
        while jobs.children("job", "deleted") or jobs.children("pod", "deleted"):
            assert time.monotonic() < deadline, "the job's children outlived it"
            time.sleep(1)
        claim = status["effective"]["outputUri"].removeprefix("pvc://").partition("/")[0]
        assert jobs.platform.get("pvc", claim, "-n", jobs.namespace)["status"]["phase"] == "Bound"
    finally:
        jobs.platform.kubectl(*scale, "--replicas=1")
        jobs.platform.kubectl(
            "rollout", "status", "-n", SYSTEM, "deployment/finetune-operator", "--timeout=300s"
        )


def test_an_upgraded_operator_leaves_a_running_attempt_as_it_is(jobs: Jobs) -> None:
    jobs.apply("upgraded", tiny(_LONG))
    jobs.wait_phase("upgraded", "Running")
    (before,) = jobs.children("job", "upgraded")
    jobs.platform.install_operator(
        "defaults.output.size=1Gi", "trainer.podLabels.upgraded=yes", "operator.workers=3"
    )
    status = jobs.wait_phase("upgraded", "Succeeded")
    (after,) = jobs.children("job", "upgraded")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["spec"] == before["spec"]
    assert len(status["attempts"]) == 1
