"""Ends of pods that take minutes (`make test-signals`): a trainer that is killed, a pod that is evicted, and a node
whose kubelet stops while its containers run on. Only the embedded cluster's kubelet can be stopped here.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.jobs import Jobs, condition, tiny
from e2e.test_signals import inside, pod_of
from finetune_cluster.choice import chosen_cluster
from finetune_cluster.node import NodeCluster
from finetune_demo.platform import Platform

_LONG = 1200
_PATIENCE = 900
"""Seconds. On a busy machine two trainers side by side take minutes for what takes half a minute on an idle one."""
NODE_LOST_SECONDS = 30
"""The shortest one that the chart takes."""
TRAINS = """
import os, pathlib
def of(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
children = [p.name for p in pathlib.Path("/proc").iterdir() if p.name.isdigit() and of(p.name)[1] == "1"]
trains = int(max(children, key=lambda pid: int(of(pid)[21])))
"""
"""In a pod: the process that trains, which is the largest child of process 1."""
_KILL = f"{TRAINS}os.kill(trains, 9)\n"


@contextmanager
def kubelet_stopped() -> Iterator[None]:
    """SIGSTOP; SIGCONT at the end."""
    cluster = chosen_cluster()
    if not isinstance(cluster, NodeCluster):
        pytest.skip("the kubelet of this cluster cannot be stopped")
    pid = cluster.pid_of("kubelet")
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def take_for_lost(platform: Platform) -> None:
    """Taint the node when it is known to be silent, so that its pods are deleted.

    The node controller does so where another node answers. Where none does, it evicts nothing, because the fault is
    probably its own ("master disruption mode"), and its taint of the only node is left to chance.
    """
    (node,) = platform.get("nodes")["items"]
    name = node["metadata"]["name"]
    platform.kubectl("wait", "node", name, "--for=condition=Ready=Unknown", "--timeout=180s")
    platform.kubectl("taint", "node", name, "--overwrite", "node.kubernetes.io/unreachable:NoExecute")


def test_a_lost_node_costs_no_retry_and_training_resumes_when_a_node_is_there(
    platform: Platform, jobs: Jobs
) -> None:
    platform.install_operator("defaults.output.size=1Gi", f"defaults.nodeLostSeconds={NODE_LOST_SECONDS}")
    jobs.apply("node-lost", tiny(10 * _LONG, retry={"limit": 0}))
    jobs.wait_step("node-lost", 20)
    with kubelet_stopped():
        take_for_lost(platform)
        status = jobs.wait("node-lost", "lost", lambda s: s.get("attempt") == 2, seconds=240)
        first = status["attempts"][0]
        assert (first["reason"], first["counted"]) == ("NodeLost", False)
        assert "was lost with the pod" in first["message"]
        assert condition(status, "Running")["status"] == "False"
        assert status["phase"] == "Pending"
        time.sleep(5)
        assert [one["number"] for one in jobs.status("node-lost")["attempts"]] == [1, 2], (
            "one waits, no more follow"
        )
    status = jobs.wait(
        "node-lost", "going on", lambda s: (s["attempts"][1].get("fromStep") or 0) >= 20, seconds=240
    )
    assert "retries" not in status
    platform.kubectl("delete", "ftj", "node-lost", "-n", jobs.namespace, "--wait=false")


@pytest.mark.timeout(2 * _PATIENCE)
def test_a_killed_trainer_costs_a_retry_and_an_evicted_pod_none(jobs: Jobs) -> None:
    jobs.apply("sigkill", tiny(_LONG, retry={"limit": 1}))
    jobs.apply("evicted", tiny(_LONG, retry={"limit": 0}))
    for name in ("sigkill", "evicted"):
        jobs.wait_step(name, 20)
    inside(jobs, pod_of(jobs, "sigkill", 1), _KILL)
    evict(jobs, pod_of(jobs, "evicted", 1))

    status = jobs.wait_phase("sigkill", "Succeeded", _PATIENCE)
    first, second = status["attempts"]
    assert (first["reason"], first["exitCode"], first["counted"]) == ("Killed", 137, True)
    assert "ended by SIGKILL from outside on node " in first["message"]
    assert status["retries"] == 1
    assert second["fromStep"] >= 20
    assert second["toStep"] == _LONG

    status = jobs.wait_phase("evicted", "Succeeded", _PATIENCE)
    first, second = status["attempts"]
    assert (first["reason"], first["counted"]) == ("Preempted", False)
    assert "(EvictionByEvictionAPI); training resumes from the last checkpoint" in first["message"]
    assert "retries" not in status
    assert second["fromStep"] >= 20, "it saved when it was asked to stop"


def evict(jobs: Jobs, pod: str) -> None:
    """As kubectl drain does."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction"}
    body |= {"metadata": {"name": pod, "namespace": jobs.namespace}}
    path = f"/api/v1/namespaces/{jobs.namespace}/pods/{pod}/eviction"
    jobs.platform.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))
