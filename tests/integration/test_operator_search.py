"""Searches as real objects: the operator runs as a process, the test is user, kubelet and trainer."""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from finetune_api.run import ExitCode, RunReport
from finetune_api.status import CheckpointStatus, EpochStatus, ProgressStatus, RandomSearchStatus
from finetune_cluster.apiserver import ApiServer
from integration.fault_proxy import FaultProxy
from integration.operator_rig import (
    DONE,
    JOBS,
    MERGE,
    MODEL,
    PATIENCE,
    Json,
    Operator,
    Refused,
    Rest,
    World,
    make_namespace,
    running,
    shared_server,
    until,
)
from integration.test_operator_restart import restart_when
from ports import free_port
from unit.api.cases import ENDED_SEARCH

SETTLED = 5.0
"""Seconds after the end of a run within which its last write is answered."""
RATE = "training.optimizer.learningRate"
RATES: Json = {"path": RATE, "logUniform": {"min": 1e-5, "max": 1e-2}}
BATCHES: Json = {"path": "training.batchSize", "choice": [16, 32, 64]}
GRID: Json = {"algorithm": "Grid", "parameters": [BATCHES]}
INPUTS = {
    "model": {"uri": "pvc://demo/models/minilm"},
    "dataset": {"train": {"uri": "pvc://demo/data/movie-reviews.jsonl"}},
}


@pytest.fixture(scope="module")
def server() -> ApiServer:
    return shared_server()


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def settings(port: int, tmp_path_factory: pytest.TempPathFactory) -> Json:
    return {
        "namespaces": ["searches", "searches-quota"],
        "progress_url": f"https://127.0.0.1:{port}",
        "progress_port": port,
        "progress_interval": 0.5,
        "retry_backoff": 0.1,
        "tls_folder": tmp_path_factory.mktemp("tls"),
    }


@pytest.fixture(scope="module")
def operator(
    server: ApiServer, settings: Json, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    for name in settings["namespaces"]:
        make_namespace(Rest(server), name)
    with running(server.kubeconfig, tmp_path_factory.mktemp("operator"), **settings) as started:
        yield started
        assert "Traceback" not in started.log(10**6), started.log()


@pytest.fixture
def world(operator: Operator, server: ApiServer) -> World:
    assert operator.alive, operator.log()
    return World(Rest(server), "searches")


def search(world: World, name: str, of: Json, **spec: Any) -> str:
    """Create a parent."""
    return world.apply(name, search=of, **spec)


def trials(world: World, parent: str) -> list[str]:
    """The names of the trials that exist, in order."""
    uid = world.job(parent)["metadata"]["uid"]
    found = world.rest.items(JOBS.format(world.namespace), f"finetune.dev/parent-uid={uid}")
    return sorted(one["metadata"]["name"] for one in found)


def until_trials(world: World, parent: str, count: int) -> list[str]:
    def enough() -> list[str] | None:
        found = trials(world, parent)
        return found if len(found) >= count else None

    return until(enough, f"{parent} has {count} trials; status {world.status(parent)}")


def result(value: float) -> RunReport:
    """The report of a trial that ended with this loss."""
    model = MODEL.model_copy(update={"metrics": {"eval_loss": value}})
    return DONE.model_copy(
        update={"model": model, "best": CheckpointStatus(step=100, metric="loss", value=value)}
    )


def loss_of(spec: Json) -> float:
    """A bowl around the rate 3e-4 and the batch size 32."""
    training = spec["training"]
    rate = training.get("optimizer", {}).get("learningRate", 3e-4)
    return abs(math.log10(rate / 3e-4)) + abs(training.get("batchSize", 32) - 32) / 100


def train(world: World, name: str, value: float | None = None) -> None:
    """A trial trains to its end."""
    pod = world.run(name)
    world.succeed(pod, result(loss_of(world.job(name)["spec"]) if value is None else value))


def train_in_view(world: World, parent: str, name: str, value: float | None = None) -> None:
    """A run trains to its end, but not before the parent has said that it runs: a write more in every case."""
    world.run(name)

    def said() -> bool:
        status = world.status(parent)
        return "Running" in [
            one["state"] for one in status.get("trials", {}).get("latest", status.get("members"))
        ]

    until(said, f"{parent} says that {name} runs")
    world.succeed(world.pod(name), result(loss_of(world.job(name)["spec"]) if value is None else value))


def concluded(world: World, name: str, report: RunReport = DONE) -> Json:
    """The parent's own pod copies the best model, or combines the members; the status then."""
    pod = world.run(name)
    until(lambda: "runningTime" in world.status(name)["attempts"][-1], f"{name} says that its pod runs")
    world.succeed(pod, report)
    return world.until_phase(name, "Succeeded")


def config_of(world: World, name: str) -> Json:
    """What the parent's own pod reads."""
    found = until(lambda: world.files(name), f"{name} has its Job")
    config: Json = json.loads(found[-1]["run.json"])
    return config


def test_null_as_a_choice_removes_the_field_and_can_be_stored_and_changed(world: World) -> None:
    parameters = [
        {"path": "training.earlyStopping", "choice": [None, {"patience": 2, "minDelta": None}]},
        {"path": "dataset.preprocessing.maxLength", "choice": [None, 64]},
    ]
    name = search(world, "nulls", {"algorithm": "Grid", "parameters": parameters})
    first = world.job(until_trials(world, name, 1)[0])["spec"]
    assert "earlyStopping" not in first.get("training", {})
    assert first["dataset"]["preprocessing"]["maxLength"] == 256, "the default"
    world.change(name, search={"parallelism": 4})
    until_trials(world, name, 4)
    until(lambda: len(world.status(name)["trials"]["latest"]) == 4, "the status has all trials")
    chosen = [one["parameters"] for one in world.status(name)["trials"]["latest"]]
    found = [[one[parameter["path"]] for parameter in parameters] for one in chosen]
    patient = '{"minDelta": null, "patience": 2}'
    assert found == [["null", "null"], ["null", "64"], [patient, "null"], [patient, "64"]]
    world.delete(name)


def test_a_grid_runs_every_combination_and_records_the_best_model(world: World, operator: Operator) -> None:
    name = search(world, "grid", GRID)
    for count in (1, 2, 3):
        trial = until_trials(world, name, count)[-1]
        assert trial.endswith(f"-t{count:03}")
        until(lambda: world.status(name)["trials"]["running"] == 1, "one at a time")
        train(world, trial)
    config = config_of(world, name)
    assert config["kind"] == "SummaryConfig"
    assert [one["parameters"] for one in config["search"]["trials"]] == [
        {"training.batchSize": size} for size in (16, 32, 64)
    ]
    assert world.status(name)["model"]["uri"].endswith("-trials/t002"), "until it is copied"
    status = concluded(world, name)
    assert [one["parameters"]["training.batchSize"] for one in status["trials"]["latest"]] == [
        "16",
        "32",
        "64",
    ]
    best = status["trials"]["best"]
    assert (best["number"], best["value"]) == (2, 0.0)
    counts = {
        key: status["trials"][key]
        for key in ("planned", "total", "running", "succeeded", "failed", "deleted")
    }
    assert counts == {"planned": 3, "total": 3, "running": 0, "succeeded": 3, "failed": 0, "deleted": 0}
    winner = world.job(best["name"])
    assert config["model"]["uri"] == winner["status"]["model"]["uri"]
    assert status["model"]["uri"] == f"{winner['spec']['output']['uri'].removesuffix('-trials/t002')}"
    pod = next(one for one in world.pods(name))
    assert "nvidia.com/gpu" not in pod["spec"]["containers"][0]["resources"].get("limits", {})
    assert status["display"]["progress"] == "3/3 trials"
    assert status["display"]["best"] == "eval_loss 0.000"
    assert "training.batchSize=32" in world.condition(name, "Finished")["message"]
    assert winner["spec"]["dataset"]["validation"]["seed"] == 42
    assert "search" not in winner["spec"]
    assert len(world.claims(name)) == 1, "the trials write to the parent's claim"
    assert all(not world.claims(trial) for trial in trials(world, name))
    metrics = operator.metrics()
    assert 'finetune_jobs{namespace="searches",phase="Succeeded"} 1.0' in metrics, "a search is one job"
    assert (
        'finetune_jobs_finished_total{namespace="searches",reason="Succeeded",result="Succeeded"} 1.0'
        in metrics
    )


def test_parallel_trials_are_replaced_as_they_end(world: World) -> None:
    of = {"algorithm": "Random", "parameters": [RATES], "maxTrials": 5, "parallelism": 2}
    name = search(world, "parallel", of)
    until_trials(world, name, 2)
    for ended in range(5):
        train(world, until_trials(world, name, ended + 1)[ended])
        until(
            lambda ended=ended: world.status(name)["trials"]["succeeded"] == ended + 1,
            f"{ended + 1} are counted",
        )
        assert world.status(name)["trials"]["running"] <= 2
        assert len(trials(world, name)) <= ended + 3
    assert concluded(world, name)["trials"]["total"] == 5


def test_a_trial_that_fails_is_counted_and_too_many_end_the_search(world: World) -> None:
    of = {"parameters": [RATES], "maxTrials": 10, "maxFailedTrials": 1}
    name = search(world, "failing", of)
    for number in (1, 2):
        trial = until_trials(world, name, number)[-1]
        report = RunReport(exit_code=65, message="pvc://demo/data/movie-reviews.jsonl: row 7 is not JSON")
        world.end(world.run(trial), ExitCode.DATA, report.model_dump_json(by_alias=True, exclude_none=True))
    status = world.until_phase(name, "Failed")
    assert status["trials"]["failed"] == 2
    finished = world.condition(name, "Failed")
    assert finished["reason"] == "TrialsFailed"
    assert "more than 1 trials failed (spec.search.maxFailedTrials)" in finished["message"]
    assert "row 7 is not JSON" in finished["message"]
    assert "model" not in status


def test_suspend_resume_and_deletion_reach_the_trials(world: World) -> None:
    name = search(world, "paused", {"parameters": [RATES], "maxTrials": 3})
    trial = until_trials(world, name, 1)[0]
    pod = world.run(trial)
    world.until_phase(name, "Running")
    world.change(name, suspend=True)
    world.obey(pod)
    world.until_phase(trial, "Suspended")
    status = world.until_phase(name, "Suspended")
    assert status["trials"]["failed"] == 0
    world.change(name, suspend=False, resources={"gpusPerNode": 0, "requests": {"cpu": "2"}})
    second = world.pod(trial, attempt=2)
    assert (world.get_pod(second) or {})["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "2"}
    assert trials(world, name) == [trial], "the same trial resumes"
    world.delete(name)
    until(lambda: world.rest.get(JOBS.format("searches") + f"/{trial}") is None, "the trial goes with it")


def test_a_trial_that_somebody_deletes_is_counted_and_its_number_is_not_used_again(world: World) -> None:
    name = search(world, "deleted", {"parameters": [RATES], "maxTrials": 3})
    first = until_trials(world, name, 1)[0]
    until(lambda: world.status(name)["trials"]["total"] == 1, "it is counted")
    world.delete(first)
    second = until(
        lambda: next((one for one in trials(world, name) if one.endswith("-t002")), None), "the next trial"
    )
    train(world, second)
    train(
        world, until(lambda: next((t for t in trials(world, name) if t.endswith("-t003")), None), "the third")
    )
    status = concluded(world, name)["trials"]
    assert (status["total"], status["succeeded"], status["deleted"]) == (3, 2, 1)


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ({"path": "training.learningRate", "choice": [1e-4]}, "did you mean training.optimizer.learningRate"),
        ({"path": "training.batchSize", "choice": [16, "many"]}, "parameters[0]"),
        ({"path": RATE, "uniform": {"min": -1, "max": 1}}, "learningRate = -1.0 is refused"),
    ],
)
def test_a_parameter_that_fits_no_field_stalls_before_any_trial(
    world: World, parameter: Json, said: str
) -> None:
    name = world.apply(search={"parameters": [parameter]})
    condition = world.until_reason(name, "InvalidSpec")
    assert said in condition["message"]
    assert world.condition(name, "Stalled")["status"] == "True"
    assert trials(world, name) == []


def test_the_best_are_repeated_and_the_best_mean_wins(world: World) -> None:
    of = GRID | {"confirm": {"top": 2, "seeds": 1}, "parallelism": 2}
    name = search(world, "confirmed", of, training={"seed": 7})
    lucky = {16: 0.10, 32: 0.11, 64: 0.50}
    for count in (1, 2, 3):
        trial = until_trials(world, name, count)[count - 1]
        train(world, trial, lucky[world.job(trial)["spec"]["training"]["batchSize"]])
    found = until_trials(world, name, 5)
    by_suffix = {one.rpartition("-")[2]: one for one in found}
    repeats = {suffix: one for suffix, one in by_suffix.items() if suffix.startswith("c")}
    assert set(repeats) == {"c1s1", "c2s1"}
    spec = world.job(repeats["c1s1"])["spec"]
    assert (spec["training"]["batchSize"], spec["training"]["seed"]) == (16, 8)
    assert spec["dataset"]["validation"]["seed"] == 7
    until(
        lambda: "the best 2 are repeated with 1 seeds" in world.condition(name, "Running")["message"],
        "the search says what it does",
    )
    train(world, repeats["c1s1"], 0.4)
    train(world, repeats["c2s1"], 0.2)
    status = concluded(world, name)
    assert status["trials"]["best"]["parameters"] == {"training.batchSize": "32"}
    assert [(one["number"], one["mean"]) for one in status["trials"]["confirmed"]] == [(2, 0.2), (1, 0.4)]
    assert status["trials"]["total"] == 3
    config = config_of(world, name)
    assert config["model"]["uri"].endswith("-trials/t002"), "of the winner's runs the one with the best value"


def test_more_trials_may_be_asked_for_while_it_runs(world: World) -> None:
    name = search(world, "more", {"parameters": [RATES], "maxTrials": 1})
    trial = until_trials(world, name, 1)[0]
    pod = world.run(trial)
    with pytest.raises(Refused, match="can be raised"):
        world.change(name, search={"maxTrials": None})
    world.change(name, search={"maxTrials": 2, "parallelism": 2})
    until_trials(world, name, 2)
    world.succeed(pod, result(0.5))
    train(world, trials(world, name)[1], value=0.25)
    assert concluded(world, name)["trials"]["best"]["number"] == 2


def test_a_quota_on_trials_is_told_once_and_lifting_it_helps(operator: Operator, server: ApiServer) -> None:
    world = World(Rest(server), "searches-quota")
    quota = world.at("/api/v1/namespaces/{}/resourcequotas")
    counted = "count/finetunejobs.finetune.dev"
    world.rest("POST", quota, {"metadata": {"name": "jobs"}, "spec": {"hard": {counted: "1"}}})
    full = {"hard": {counted: "1"}, "used": {counted: "1"}}
    world.rest("PATCH", f"{quota}/jobs/status", {"status": full | {"used": {counted: "0"}}}, MERGE)
    name = search(world, "counted", GRID)
    assert "exceeded quota: jobs" in world.until_reason(name, "ChildRefused")["message"]
    before = world.job(name)["metadata"]["resourceVersion"]
    time.sleep(3)
    assert world.job(name)["metadata"]["resourceVersion"] == before, "no write without news"
    assert [one["reason"] for one in world.events(name)].count("ChildRefused") == 1

    world.rest("DELETE", f"{quota}/jobs")
    world.change(name, search={"parallelism": 2})  # any change brings the next look forward
    train(world, until_trials(world, name, 2)[0])
    until(lambda: world.reason(name) != "ChildRefused", "the refusal is no longer reported")
    world.delete(name)


@pytest.mark.parametrize(("field", "value"), [("maxTrials", 1), ("maxDeviceSeconds", 900)])
def test_a_search_that_has_ended_takes_no_more_trials(world: World, field: str, value: int) -> None:
    name = search(world, f"ended-{field.lower()}", {"parameters": [RATES], "maxTrials": 1, field: value})
    train(world, until_trials(world, name, 1)[0])
    concluded(world, name)
    with pytest.raises(Refused, match=ENDED_SEARCH[field]):
        world.change(name, search={field: value + 1})
    world.change(name, search={field: value, "parallelism": 2}, ttlSecondsAfterFinished=9)


def test_patience_and_deadline_end_a_search_with_the_best_so_far(world: World) -> None:
    of = {"parameters": [RATES], "maxTrials": 9, "patience": 2}
    name = search(world, "patience", of)
    for number, value in enumerate((0.5, 0.6, 0.7), 1):
        train(world, until_trials(world, name, number)[-1], value)
    status = concluded(world, name)
    assert (status["trials"]["total"], status["trials"]["best"]["number"]) == (3, 1)
    assert "2 trials without a better one" in world.condition(name, "Finished")["message"]

    name = search(world, "deadline", of, activeDeadlineSeconds=3)
    train(world, until_trials(world, name, 1)[0], 0.5)
    second = until_trials(world, name, 2)[-1]
    world.obey(world.run(second))
    status = concluded(world, name)
    assert "activeDeadlineSeconds of 3 reached" in world.condition(name, "Finished")["message"]
    assert (status["trials"]["stopped"], status["trials"]["best"]["number"]) == (1, 1)


def test_the_operator_killed_between_trials_chooses_the_same_ones(
    server: ApiServer, world: World, operator: Operator
) -> None:
    of = {"parameters": [RATES, BATCHES], "maxTrials": 13}
    chosen: dict[str, list[Json]] = {}
    for name in ("undisturbed", "killed"):
        search(world, name, of)
        for number in range(1, 14):
            trial = until_trials(world, name, number)[-1]
            if name == "killed":
                operator.kill()
                operator.start().ready()
            train(world, trial)
        found = RandomSearchStatus(median=0.5, low=0.4, high=0.75)
        concluded(world, name, DONE.model_copy(update={"random_search": found}))
        chosen[name] = [world.job(trial)["spec"]["training"]["optimizer"] for trial in trials(world, name)]
    assert chosen["undisturbed"] == chosen["killed"]
    shares = world.status("killed")["trials"]["importances"]
    assert set(shares) == {RATE, "training.batchSize"}
    assert world.status("killed")["trials"]["randomSearch"] == found.to_json()


def of_the_parent(name: str) -> Callable[[str], bool]:
    """Writes of a search or an ensemble itself; those of its runs are those of any job."""

    def ours(write: str) -> bool:
        verb, _, path = write.partition(" ")
        return path.endswith(f"/{name}/status") or (
            verb == "POST" and path.endswith(("/finetunejobs", "/persistentvolumeclaims"))
        )

    return ours


def two_trials(world: World, name: str) -> Json:
    """A whole search; what it came to."""
    search(world, name, {"parameters": [RATES], "maxTrials": 2, "seed": 3})
    for number in (1, 2):
        train_in_view(world, name, until_trials(world, name, number)[-1])
    status = concluded(world, name)
    for one in [*status["trials"]["latest"], status["trials"]["best"]]:
        del one["name"]
    measured = ("deviceSeconds", "savedSeconds")
    return {
        "trials": {name: part for name, part in status["trials"].items() if name not in measured},
        "children": len(trials(world, name)),
        "claims": len(world.claims(name)),
    }


def same_if_killed_at_any_write(
    server: ApiServer, folder: Path, namespace: str, whole: Callable[[World, str], Json]
) -> None:
    """What a `whole` search or ensemble comes to does not depend on when the operator is killed.

    Two observations that meet in one reconcile cost one status write instead of two, so a run may end before the
    write that it should be killed at; another one is then started.
    """
    make_namespace(Rest(server), namespace)
    world, proxy = World(Rest(server), namespace), FaultProxy(server, folder)
    operator = Operator(proxy.kubeconfig, folder, {"namespaces": [namespace]}).start().ready()

    def struck(number: int, name: str) -> bool:
        """Kill the operator at this write; False if the run ended without one of that number."""
        dead = threading.Event()

        def strike() -> None:
            operator.process.kill()
            dead.set()

        proxy.counts = of_the_parent(name)
        proxy.arm(number, strike, after=number % 2 == 0)  # what one write is spared, its neighbours show
        restarted = restart_when(dead, operator)
        assert whole(world, name) == wanted, name
        if dead.wait(SETTLED):
            restarted.join(PATIENCE)
        proxy.disarm()
        return dead.is_set()

    try:
        proxy.counts = of_the_parent("undisturbed")
        wanted = whole(world, "undisturbed")
        writes = len(proxy.writes)
        assert 8 <= writes <= 16, proxy.writes
        for number in range(1, writes + 1):
            names = (f"killed-{number}{chance}" for chance in "abcd")
            assert any(struck(number, name) for name in names), f"four runs did without write {number}"
    finally:
        operator.kill()
        proxy.stop()


def test_killed_at_any_write_of_a_search_it_finds_the_same_model(server: ApiServer, tmp_path: Path) -> None:
    same_if_killed_at_any_write(server, tmp_path, "crashes", two_trials)


def test_a_name_that_is_taken_by_a_stranger_is_never_adopted(world: World) -> None:
    name = search(world, "taken", {"parameters": [RATES]}, suspend=True)
    uid = world.job(name)["metadata"]["uid"]
    foreign = world.apply(f"{name}-{uid[:8]}-t001", suspend=True)
    world.change(name, suspend=False)
    assert foreign in world.until_reason(name, "ChildNameConflict")["message"]
    assert trials(world, name) == []


class Reporter:
    """The trainer in a pod, which reports and reads the answer."""

    def __init__(self, world: World, port: int, name: str, pod: str) -> None:
        self._port, self._token = port, world.token(pod)
        self._authority = world.files(name)[0]["ca.crt"]

    def post(self, *losses: float) -> Json:
        """Report one evaluation an epoch; the answer."""
        said = RunReport(
            progress=ProgressStatus(step=len(losses), total_steps=100),
            epochs=[EpochStatus(epoch=n, step=n, eval_loss=loss) for n, loss in enumerate(losses, 1)],
        )
        with urllib3.PoolManager(ca_cert_data=self._authority, retries=False, timeout=10) as pool:
            answer = pool.request(
                "POST",
                f"https://127.0.0.1:{self._port}/v1/progress",
                json={"runReport": said.to_json()},
                headers={"Authorization": f"Bearer {self._token}"},
            )
            assert answer.status == 200, answer.data
            found: Json = answer.json()
            return found


def test_asha_prunes_by_the_answer_to_a_progress_report(world: World, port: int) -> None:
    of = {"parameters": [RATES], "maxTrials": 3, "parallelism": 3, "pruner": {"asha": {"reductionFactor": 3}}}
    name = search(world, "pruned", of)
    pods = {trial: world.run(trial) for trial in until_trials(world, name, 3)}
    reporters = []
    for trial, pod in pods.items():
        world.until_phase(trial, "Running")
        reporters.append(Reporter(world, port, trial, pod))
    assert reporters[0].post(0.5) == {}
    assert reporters[1].post(0.4) == {}
    worst = reporters[2].post(0.9)
    assert (
        worst["prune"]["reason"] == "eval_loss 0.9 after 1 epochs is not among the best 1 of 3 trials there"
    )
    (first, second, third) = pods
    report = RunReport(exit_code=77, message=worst["prune"]["reason"])
    world.end(pods[third], ExitCode.PRUNED, report.model_dump_json(by_alias=True, exclude_none=True))
    until(lambda: world.status(name)["trials"]["pruned"] == 1, "the trial is counted as pruned")
    world.succeed(pods[first], result(0.3))
    world.succeed(pods[second], result(0.2))
    status = concluded(world, name)["trials"]
    assert (status["succeeded"], status["pruned"], status["failed"]) == (2, 1, 0)
    assert status["best"]["name"] == second
