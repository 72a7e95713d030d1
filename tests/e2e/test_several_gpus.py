"""Two GPUs of one node: two processes in one pod, which stop, save and go on together."""

import pytest

from e2e.jobs import SLOW, Jobs, tiny

_STEPS = 1500


@pytest.mark.timeout(2 * SLOW)
def test_two_processes_train_stop_together_and_go_on(jobs: Jobs) -> None:
    jobs.apply("two-gpus", tiny(_STEPS, resources={"gpusPerNode": 2}))
    jobs.wait_step("two-gpus", 20)
    (pod,) = jobs.children("pod", "two-gpus")
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    jobs.platform.kubectl("delete", "pod", "-n", jobs.namespace, pod["metadata"]["name"])
    status = jobs.wait_phase("two-gpus", "Succeeded", SLOW)
    first, second = status["attempts"]
    assert (first["reason"], first["exitCode"], first["counted"]) == ("Interrupted", 75, False)
    assert (second["fromStep"], second["toStep"]) == (first["toStep"], _STEPS)
    assert status["effective"]["processes"] == 2
