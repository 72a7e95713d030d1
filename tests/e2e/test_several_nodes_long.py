"""Four pods of one attempt on a real node, which take minutes on two cores (`make test-signals`)."""

from pathlib import Path

import pytest

from e2e.jobs import Jobs
from e2e.test_several_nodes import ON_ONE_MACHINE, kill_pod, sharded, weights_of

_PATIENCE = 1800
"""Seconds. Four processes wait for each other at every layer."""


@pytest.mark.timeout(2 * _PATIENCE)
def test_four_pods_of_which_one_is_killed_give_the_bytes_of_four_processes_in_one(
    jobs: Jobs, tmp_path: Path
) -> None:
    jobs.apply("four-nodes", sharded(nodes=4, gpusPerNode=1) | {"scheduling": ON_ONE_MACHINE})
    jobs.wait_step("four-nodes", 20, _PATIENCE)
    pods = sorted(pod["metadata"]["name"] for pod in jobs.children("pod", "four-nodes"))
    assert len(pods) == 4
    kill_pod(jobs, pods[2])
    status = jobs.wait_phase("four-nodes", "Succeeded", _PATIENCE)
    first, second = status["attempts"]
    assert first["reason"] == "Killed", "not what the other pods said of it"
    assert (second["fromStep"] >= 20, second["toStep"]) == (True, status["progress"]["totalSteps"])
    assert (status["effective"]["processes"], status["display"]["gpus"]) == (4, "4×1")
    jobs.apply("one-node-of-four", sharded(gpusPerNode=4))
    alone = jobs.wait_phase("one-node-of-four", "Succeeded", _PATIENCE)
    found = [weights_of(jobs, one, tmp_path / str(n)) for n, one in enumerate((status, alone))]
    assert found[0] == found[1]
