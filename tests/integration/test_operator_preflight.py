"""Preflight on a real API server: no pod asks for GPUs before it has passed, whatever happens to the operator."""

from collections.abc import Iterator
from typing import Any

import pytest

from builders import LARGE_OBJECTIVE
from finetune_api.run import RunReport
from finetune_api.status import PreflightFindings
from integration.operator_rig import (
    CONFIG_MAPS,
    PODS,
    Json,
    Operator,
    Rest,
    World,
    make_namespace,
    running,
    shared_server,
    until,
)
from integration.test_operator_search import trials, until_trials

GPU: Json = {"resources": {"gpusPerNode": 1}, "preflight": "Required"}
PASSED = RunReport(exit_code=0, message="2 labels", preflight=PreflightFindings(train_rows=180, labels=2))
BAD_ROW = RunReport(exit_code=65, message="train.jsonl, row 7: the label is missing")


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    server = shared_server()
    make_namespace(Rest(server), "preflight")
    settings: Json = {"namespaces": ["preflight"], "retry_backoff": 0.1}
    with running(server.kubeconfig, tmp_path_factory.mktemp("operator"), **settings) as started:
        yield started
        assert "Traceback" not in started.log(10**6), started.log()


@pytest.fixture
def world(operator: Operator) -> World:
    assert operator.alive, operator.log()
    return World(Rest(shared_server()), "preflight")


def asks_for_gpus(body: Any) -> bool:
    return "nvidia.com/gpu" in str(body)


def fail(world: World, pod: str, report: RunReport) -> None:
    world.end(pod, int(report.exit_code or 1), report.model_dump_json(by_alias=True, exclude_none=True))


def test_a_bad_row_fails_the_job_and_no_object_asked_for_a_gpu(world: World) -> None:
    name = world.apply(**GPU)
    fail(world, world.preflight_pod(name), BAD_ROW)
    status = world.until_phase(name, "Failed")
    (child,) = world.children(name)
    assert child["metadata"]["name"].endswith("-p1")
    assert not any(map(asks_for_gpus, [child, *world.pods(name)]))
    assert "attempt" not in status
    assert status["preflight"]["exitCode"] == 65
    assert world.condition(name, "Failed")["reason"] == "DataError"
    assert "row 7" in world.condition(name, "Failed")["message"]


def test_what_it_found_is_in_the_status_before_the_first_attempt_asks_for_a_gpu(world: World) -> None:
    name = world.apply(ttlSecondsAfterFinished=0, **GPU)
    pod = world.preflight_pod(name)
    assert world.reason(name) == "Preflight"
    assert not any(map(asks_for_gpus, world.pods(name)))
    world.succeed(pod, PASSED)
    world.succeed(world.run(name))
    status = world.until_phase(name, "Succeeded")
    assert (status["preflight"]["reason"], status["preflight"]["trainRows"]) == ("Succeeded", 180)
    assert [one["number"] for one in status["attempts"]] == [1]
    until(
        lambda: not world.children(name) and not world.config_maps(name), "its Jobs go with their ConfigMaps"
    )


def test_an_operator_that_is_killed_while_it_checks_goes_on(world: World, operator: Operator) -> None:
    name = world.apply(**GPU)
    pod = world.preflight_pod(name)
    operator.kill()
    world.succeed(pod, PASSED)
    operator.start().ready()
    world.succeed(world.run(name))
    status = world.until_phase(name, "Succeeded")
    assert status["preflight"]["number"] == 1
    assert sorted(one["metadata"]["name"][-3:] for one in world.children(name)) == ["-a1", "-p1"]


def test_a_config_map_that_is_deleted_before_the_pod_has_it_is_made_again(world: World) -> None:
    name = world.apply(**GPU, objective=LARGE_OBJECTIVE)
    selector = f"finetune.dev/job-name={name},finetune.dev/preflight=1"
    (pod,) = until(lambda: world.rest.items(world.at(PODS), selector), f"{name} has a pod for preflight")
    world.bind(pod["metadata"]["name"])
    (before,) = world.config_maps(name)
    world.rest("DELETE", world.at(CONFIG_MAPS, before["metadata"]["name"]))
    (after,) = until(lambda: world.config_maps(name), "it is made again")
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["data"] == before["data"]
    world.start_container(pod["metadata"]["name"])
    world.succeed(pod["metadata"]["name"], PASSED)
    world.succeed(world.run(name))
    world.until_phase(name, "Succeeded")
    assert world.status(name)["preflight"]["number"] == 1


def test_suspending_deletes_it_and_resuming_does_it_again(world: World) -> None:
    name = world.apply(**GPU)
    pod = world.preflight_pod(name)
    world.change(name, suspend=True)
    world.obey(pod)
    world.until_phase(name, "Suspended")
    world.change(name, suspend=False)
    world.succeed(world.preflight_pod(name, 2), PASSED)
    world.run(name)
    assert world.until_phase(name, "Running")["preflight"]["number"] == 2


def test_a_parent_is_checked_before_its_first_run_and_its_runs_are_not(world: World) -> None:
    name = world.apply(ensemble={"members": 2}, **GPU)
    pod = world.preflight_pod(name)
    assert not trials(world, name)
    world.succeed(pod, PASSED)
    run = until_trials(world, name, 1)[0]
    assert "preflight" not in world.job(run)["spec"]
    world.run(run)
    assert [one["metadata"]["name"][-3:] for one in world.children(run)] == ["-a1"]
