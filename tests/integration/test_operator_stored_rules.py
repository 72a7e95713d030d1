"""FineTuneJobs stored before a rule of spec.resources: what runs goes on to its end, and nothing else begins."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.crd import crd
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import (
    JOBS,
    Refused,
    Rest,
    World,
    install_crd,
    make_namespace,
    running,
    until,
)

TPU = {"limits": {"google.com/tpu": "1"}}


def without_rules(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            name: without_rules(child) for name, child in node.items() if name != "x-kubernetes-validations"
        }
    return [without_rules(child) for child in node] if isinstance(node, list) else node


def admits(world: World, wanted: bool) -> bool:
    """Whether the definition in force lets a TPU beside the CPU in."""
    probe = copy.deepcopy(world.job("probe"))
    probe["metadata"] = {"name": "another"}
    probe["spec"]["resources"] |= TPU
    try:
        world.rest("POST", world.at(JOBS) + "?dryRun=All", probe)
    except Refused:
        return not wanted
    return wanted


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ApiServer.start(controllers=True) as server:
        rest = Rest(server)
        install_crd(rest)
        world = make_namespace(rest, "stored")
        with running(server.kubeconfig, tmp_path, namespaces=["stored"]) as operator:
            yield world
            assert "Traceback" not in operator.log(), operator.log()


def test_a_run_with_a_device_that_a_newer_rule_refuses_goes_on_and_no_other_begins(world: World) -> None:
    world.apply("probe", suspend=True)
    pods = {}
    for name in ("ends", "fails"):
        world.apply(name)
        pods[name] = world.run(name)
        world.until_phase(name, "Running")
    install_crd(world.rest, without_rules(crd()))
    until(lambda: admits(world, True), "the rules are gone")
    for name in pods:
        world.change(name, resources=TPU)
        world.write_status(name, {"effective": {"resources": TPU}})
    install_crd(world.rest)
    until(lambda: admits(world, False), "the rules are in force")

    world.succeed(pods["ends"])
    ended = world.until_phase("ends", "Succeeded")
    assert ended["effective"]["resources"]["limits"] == TPU["limits"]

    world.disrupt(pods["fails"], 143, "EvictionByEvictionAPI")
    message = world.until_reason("fails", "InvalidSpec")["message"]
    assert message.startswith("spec.resources: accelerators in requests and limits")
    assert message.endswith("suspend the job, change spec.resources, and set spec.suspend to false")
    assert world.condition("fails", "Stalled")["status"] == "True"
    world.change("fails", suspend=True)
    world.until_phase("fails", "Suspended")
    world.change("fails", suspend=False, resources={"limits": None})
    world.succeed(world.run("fails", attempt=2))
    world.until_phase("fails", "Succeeded")
