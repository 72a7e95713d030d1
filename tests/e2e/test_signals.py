"""What the kernel and the kubelet do to a pod, on a real node: each end has its reason, its sentence, its place in the
record of attempts, and costs a retry or none. `test_signals_long.py` has the ends that take longer.
"""

import re
import time

from e2e.jobs import Body, Jobs, condition, tiny

_LONG = 1200
_LIMIT = "1Gi"
_HOG = """
import os, time
for _ in range(40):
    if os.fork() == 0:
        held = bytearray(b"x") * (64 << 20)
        time.sleep(60)
        os._exit(0)
    time.sleep(0.05)
time.sleep(60)
"""
"""Forty processes of 64 MiB, one after the other: at the limit the trainer is the largest of the container."""


def pod_of(jobs: Jobs, name: str, attempt: int) -> str:
    """The attempt's pod, once it runs."""
    found = [
        pod
        for pod in jobs.children("pod", name)
        if pod["metadata"]["labels"].get("finetune.dev/attempt") == str(attempt)
    ]
    (pod,) = found
    return str(pod["metadata"]["name"])


def inside(jobs: Jobs, pod: str, script: str) -> None:
    """Run a script in the pod's container. It may end with it."""
    target = ("exec", "-n", jobs.namespace, pod, "--", "python", "-c")
    jobs.platform.kubectl(*target, f"import os\nif os.fork() == 0:\n    os.setsid()\n    exec({script!r})\n")


def wait_attempt(jobs: Jobs, name: str, attempt: int, step: int = 0) -> Body:
    """Wait until an attempt has reached a step."""

    def there(status: Body) -> bool:
        reached = (status.get("progress") or {}).get("step", 0)
        return status.get("attempt") == attempt and status["phase"] == "Running" and reached >= step

    return jobs.wait(name, f"in attempt {attempt} at step {step}", there)


def test_memory_over_the_limit_costs_one_retry_with_half_the_micro_batch_and_then_names_a_limit(
    jobs: Jobs,
) -> None:
    jobs.apply("oom", tiny(_LONG * 10, resources={"limits": {"memory": _LIMIT}}))
    jobs.wait_step("oom", 20)
    inside(jobs, pod_of(jobs, "oom", 1), _HOG)
    wait_attempt(jobs, "oom", 2)
    status = jobs.wait(
        "oom", "further", lambda s: (s.get("progress") or {}).get("step", 0) > _first_end(s) + 5
    )
    (first, second) = status["attempts"]
    assert (first["reason"], first["exitCode"], first["counted"]) == ("HostOutOfMemory", 137, True)
    assert f"memory limit of {_LIMIT} and was killed (the last measured peak was " in first["message"]
    assert "the next attempt computes micro-batches of 4 instead of 8" in first["message"]
    assert second["microBatchSize"] == 4
    assert second["fromStep"] >= 20
    inside(jobs, pod_of(jobs, "oom", 2), _HOG)
    status = jobs.wait_phase("oom", "Failed")
    failed = condition(status, "Failed")
    assert failed["reason"] == "HostOutOfMemory"
    assert "with micro-batches of 4; the last measured peak was " in failed["message"]
    wanted = re.search(r"set spec\.resources\.limits\.memory: (\d+)Mi$", failed["message"])
    assert wanted
    assert int(wanted[1]) >= 1.5 * 1024
    assert len(status["attempts"]) == 2


def _first_end(status: Body) -> int:
    return int((status["attempts"][0] if status.get("attempts") else {}).get("toStep", 10**9))


def test_a_secret_that_is_missing_is_named_and_the_job_goes_on_when_it_is_there(jobs: Jobs) -> None:
    key = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "not-yet", "key": "token"}}}
    jobs.apply("no-secret", tiny(20, env=[key]))
    status = jobs.wait(
        "no-secret", "reported", lambda s: "not-yet" in (s.get("display") or {}).get("message", "")
    )
    assert status["phase"] == "Pending"
    assert condition(status, "Running")["status"] == "False"
    time.sleep(1)
    assert [one["number"] for one in jobs.status("no-secret")["attempts"]] == [1], "waiting is no attempt"
    jobs.platform.kubectl(
        "create", "secret", "generic", "not-yet", "-n", jobs.namespace, "--from-literal=token=x"
    )
    status = jobs.wait_phase("no-secret", "Succeeded")
    assert len(status["attempts"]) == 1
