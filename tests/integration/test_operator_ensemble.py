"""Ensembles as real objects: the operator runs as a process, the test is user, kubelet and trainer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.run import ExitCode, RunReport
from finetune_api.status import CombinationStatus, Published
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import (
    DONE,
    JOBS,
    MODEL,
    Json,
    Operator,
    Rest,
    World,
    make_namespace,
    running,
    shared_server,
    until,
)
from integration.test_operator_search import (
    RATES,
    concluded,
    config_of,
    same_if_killed_at_any_write,
    train,
    train_in_view,
    trials,
    until_trials,
)

FIGURES = CombinationStatus(
    combine="AverageProbabilities",
    metric="eval_accuracy",
    members=3,
    used=3,
    mean_member=0.82,
    best_member=0.84,
    combined=0.86,
    gain=0.02,
    gain_interval=[0.005, 0.035],
    published=Published.COMBINATION,
)
COMBINED = DONE.model_copy(update={"model": MODEL.model_copy(update={"combination": FIGURES})})


@pytest.fixture(scope="module")
def server() -> ApiServer:
    return shared_server()


@pytest.fixture(scope="module")
def operator(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    make_namespace(Rest(server), "ensembles")
    settings: Json = {"namespaces": ["ensembles"], "retry_backoff": 0.1}
    with running(server.kubeconfig, tmp_path_factory.mktemp("operator"), **settings) as started:
        yield started
        assert "Traceback" not in started.log(10**6), started.log()


@pytest.fixture
def world(operator: Operator, server: ApiServer) -> World:
    assert operator.alive, operator.log()
    return World(Rest(server), "ensembles")


def fail(world: World, name: str, message: str) -> None:
    """A member fails in a way that no retry helps."""
    report = RunReport(exit_code=65, message=message)
    world.end(world.run(name), ExitCode.DATA, report.model_dump_json(by_alias=True, exclude_none=True))


def members_of(status: Json) -> list[str]:
    return [one["state"] for one in status.get("members", [])]


def test_members_train_and_are_combined_into_the_jobs_model(world: World) -> None:
    name = world.apply("team", ensemble={"members": 3, "parallelism": 2}, training={"seed": 7})
    first, second = until_trials(world, name, 2)
    assert [one.rpartition("-")[2] for one in (first, second)] == ["m1", "m2"]
    train(world, first, 0.4)
    train(world, second, 0.3)
    third = until_trials(world, name, 3)[2]
    assert [world.job(one)["spec"]["training"]["seed"] for one in (first, second, third)] == [7, 8, 9]
    until(lambda: world.status(name)["display"].get("progress") == "2/3 members", "progress is shown")
    train(world, third, 0.5)
    config = config_of(world, name)
    assert config["kind"] == "CombineConfig"
    assert [one["uri"] for one in config["members"]] == [
        world.job(one)["spec"]["output"]["uri"] for one in (first, second, third)
    ]
    assert config["dataset"]["split"]["seed"] == 7
    status = concluded(world, name, COMBINED)
    assert members_of(status) == ["Succeeded"] * 3
    assert status["model"]["combination"]["gainInterval"] == [0.005, 0.035]
    message = world.condition(name, "Finished")["message"]
    assert message.startswith(
        "AverageProbabilities of 3 members has eval_accuracy 0.86, the best member 0.84: a gain of 0.02 (95 % interval"
        " 0.005 to 0.035); the model is at pvc://"
    )
    assert len(world.claims(name)) == 1, "the members write to the parent's claim"
    world.delete(name)
    until(lambda: world.rest.get(JOBS.format("ensembles") + f"/{first}") is None, "the members go with it")


def test_a_failed_member_is_left_out_if_enough_succeed(world: World) -> None:
    name = world.apply("enough", ensemble={"members": 3, "minMembers": 2})
    fail(world, until_trials(world, name, 1)[0], "row 7 is not JSON")
    train(world, until_trials(world, name, 2)[1], 0.4)
    train(world, until_trials(world, name, 3)[2], 0.4)
    config = config_of(world, name)
    assert len(config["members"]) == 2
    assert [one.rpartition("-")[2] for one in config["missing"]] == ["m1"]
    concluded(world, name, COMBINED)
    assert "1 of 3 members failed" in world.condition(name, "Finished")["message"]


def test_too_few_members_fail_the_ensemble_with_the_reason(world: World) -> None:
    name = world.apply("toofew", ensemble={"members": 3, "parallelism": 2})
    first, second = until_trials(world, name, 2)
    pod = world.run(second)
    fail(world, first, "row 7 is not JSON")
    world.obey(pod)
    status = world.until_phase(name, "Failed")
    assert world.condition(name, "Failed")["reason"] == "MembersFailed"
    assert "row 7 is not JSON" in world.condition(name, "Failed")["message"]
    assert members_of(status) == ["Failed", "Stopped", "Planned"]
    assert "model" not in status


def test_a_combination_that_is_interrupted_is_tried_again(world: World) -> None:
    name = world.apply("again", ensemble={"members": 2, "parallelism": 2})
    for member in until_trials(world, name, 2):
        train(world, member, 0.4)
    pod = world.run(name)
    assert "combines the members" in world.until_reason(name, "Running")["message"]
    world.disrupt(pod, 137, "EvictionByEvictionAPI")
    second = world.run(name, attempt=2)
    assert json_of(world, name)["job"]["attempt"] == 2
    world.succeed(second, COMBINED)
    world.until_phase(name, "Succeeded")


def json_of(world: World, name: str) -> Json:
    """The newest configuration."""
    until(lambda: len(world.files(name)) == 2, "the second attempt's configuration")
    return config_of(world, name)


def test_an_ensemble_that_is_suspended_while_it_combines_goes_on_later(world: World) -> None:
    name = world.apply("paused", ensemble={"members": 2, "parallelism": 2})
    for member in until_trials(world, name, 2):
        train(world, member, 0.4)
    pod = world.run(name)
    world.until_reason(name, "Running")
    world.change(name, suspend=True)
    world.obey(pod)
    world.until_phase(name, "Suspended")
    world.change(name, suspend=False)
    world.succeed(world.run(name, attempt=2), COMBINED)
    assert len(trials(world, name)) == 2
    world.until_phase(name, "Succeeded")


def test_a_student_trains_in_the_jobs_own_attempt_with_its_gpus(world: World) -> None:
    """Interrupted, it goes on in the same folder; members train and end before it, as for every ensemble."""
    name = world.apply(
        "student",
        ensemble={"members": 2, "parallelism": 2, "combine": "Distil", "distil": {"alpha": 0.9}},
        resources={"gpusPerNode": 1},
    )
    for member in until_trials(world, name, 2):
        train(world, member, 0.4)
    pod = world.run(name)
    (job,) = world.children(name)
    assert job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "trains a student of the members" in world.until_reason(name, "Running")["message"]
    config = config_of(world, name)
    assert config["devices"]["gpus"] == 1
    assert config["student"]["distil"] == {"alpha": 0.9}
    assert config["student"]["model"]["uri"] == world.job(name)["spec"]["model"]["uri"]
    assert "search" not in config
    world.disrupt(pod, 137, "EvictionByEvictionAPI")
    second = world.run(name, attempt=2)
    assert json_of(world, name)["student"] == config["student"]
    world.succeed(second, COMBINED)
    world.until_phase(name, "Succeeded")


def test_overrides_that_fit_no_field_stall_before_any_member(world: World) -> None:
    name = world.apply("wrong", ensemble={"overrides": [{"training.seed": 1}, {"learningRate": 1e-5}]})
    condition = world.until_reason(name, "InvalidSpec")
    assert (
        "overrides[1]: learningRate: unknown field; did you mean training.optimizer" in condition["message"]
    )
    assert world.condition(name, "Stalled")["status"] == "True"
    assert trials(world, name) == []


def test_the_best_trials_of_a_search_become_an_ensemble(world: World) -> None:
    of = {
        "algorithm": "Random",
        "parameters": [RATES],
        "maxTrials": 4,
        "parallelism": 4,
        "keepModels": "Best",
    }
    name = world.apply("best", search=of, ensemble={"fromSearch": 2}, model=with_adapter())
    found = until_trials(world, name, 4)
    assert all(world.job(one)["spec"]["model"]["adapter"]["lora"]["merge"] for one in found)
    for trial, value in zip(found, (0.5, 0.2, 0.9, 0.3), strict=True):
        train(world, trial, value)
    config = config_of(world, name)
    assert config["kind"] == "CombineConfig"
    assert [one["uri"].rpartition("-trials/")[2] for one in config["members"]] == ["t002", "t004"]
    assert [one["value"] for one in config["search"]["trials"]] == [0.5, 0.2, 0.9, 0.3]
    assert len(config["search"]["discard"]) == 4
    status = concluded(world, name, COMBINED)
    assert status["trials"]["best"]["number"] == 2
    assert [one["number"] for one in status["members"]] == [2, 4]


def with_adapter() -> Json:
    return {"uri": "pvc://demo/models/minilm", "adapter": {"lora": {"rank": 4}}}


def test_a_search_with_too_few_models_for_its_ensemble_says_so(world: World) -> None:
    of = {"parameters": [RATES], "maxTrials": 2, "parallelism": 2}
    name = world.apply("few", search=of, ensemble={"fromSearch": 2})
    first, second = until_trials(world, name, 2)
    train(world, first, 0.4)
    fail(world, second, "row 7 is not JSON")
    world.until_phase(name, "Failed")
    message = world.condition(name, "Failed")["message"]
    assert "1 trials have a model, and spec.ensemble needs 2" in message
    assert "row 7 is not JSON" in message


def two_members(world: World, name: str) -> Json:
    """A whole ensemble; what it came to."""
    world.apply(name, ensemble={"members": 2})
    for number in (1, 2):
        train_in_view(world, name, until_trials(world, name, number)[-1], 0.4)
    status = concluded(world, name, COMBINED)
    return {
        "members": members_of(status),
        "attempts": len(status["attempts"]),
        "children": len(trials(world, name)),
        "claims": len(world.claims(name)),
    }


def test_killed_at_any_write_of_an_ensemble_it_combines_the_same_members(
    server: ApiServer, tmp_path: Path
) -> None:
    same_if_killed_at_any_write(server, tmp_path, "team-crashes", two_members)
