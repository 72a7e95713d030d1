"""The attempt of a search or an ensemble itself, when its runs have ended."""

from dataclasses import replace
from typing import Any

import pytest

from builders import job, manifest
from finetune_api.combine import CombineConfig
from finetune_api.objective import ClassificationSpec
from finetune_api.run import ExitCode, RunReport, to_message
from finetune_api.search_history import SearchHistory
from finetune_api.status import FineTuneJobStatus, MemberStatus, ModelStatus, Phase, Reason, TrialState
from finetune_api.training import Precision
from finetune_core.decide.actions import Action
from finetune_core.decide.conditions import Verdict, conditions_of
from finetune_core.decide.parents import runs_children
from finetune_core.plan.conclusion import conclusion_config
from finetune_core.plan.effective import resolve
from finetune_core.plan.workload import plan
from unit.api.cases import ACCEPTED, Case
from unit.operator.search.spaces import search_of
from unit.operator.worlds import T0, Life, child, over, parsed, run_json, running_pod, seconds, seen, settings

WINNER = ModelStatus(uri="pvc://out/model-trials/t002", digest="sha256:1", format="safetensors")
SEARCH: dict[str, Any] = {"search": search_of(), "activeDeadlineSeconds": 60}
ENSEMBLE: dict[str, Any] = {"ensemble": {"members": 2}, "activeDeadlineSeconds": 60}
MEMBERS = [MemberStatus(number=n, name=f"m{n}", state=TrialState.SUCCEEDED, uri="pvc://a/b") for n in (1, 2)]


def concluding(spec: dict[str, Any]) -> Life:
    """A parent whose runs have trained for longer than its deadline."""
    status = FineTuneJobStatus(
        start_time=T0,
        conditions=conditions_of(
            Verdict(Phase.RUNNING, Reason.RUNNING, "2 of 2 members are trained"), [], 1, T0
        ),
        model=WINNER if "search" in spec else None,
        members=MEMBERS,
    )
    return Life(replace(parsed(job("tune", **spec)), status=status))


@pytest.mark.parametrize(
    ("spec", "does"),
    [(SEARCH, "copies the best model and writes the report"), (ENSEMBLE, "combines the members")],
    ids=["search", "ensemble"],
)
def test_the_deadline_of_the_runs_does_not_stop_what_concludes_them(spec: dict[str, Any], does: str) -> None:
    life = concluding(spec)
    assert life.reconcile(at=500).action is Action.CREATE_ATTEMPT
    decision = life.reconcile(seen(child(), running_pod()), at=600)
    assert decision.action is Action.NOTHING
    assert life.message == f"attempt 1 {does} on node n1"


def test_the_time_of_the_runs_is_counted_once() -> None:
    life = concluding(ENSEMBLE)
    life.reconcile(at=500)
    assert life.status.active_seconds == 500
    life.reconcile(seen(child(), running_pod()), at=600)
    assert life.status.active_seconds == 500


def test_a_search_whose_model_cannot_be_copied_says_where_it_is() -> None:
    life = concluding(SEARCH)
    life.reconcile(at=1)
    life.reconcile(over(66), at=2)
    assert life.phase == "Failed"
    assert life.message.endswith("; the best trial's model is at pvc://out/model-trials/t002")


def test_an_ensemble_that_cannot_be_combined_says_where_the_models_of_its_members_are() -> None:
    life = concluding(ENSEMBLE)
    life.reconcile(at=1)
    life.reconcile(over(66), at=2)
    assert life.phase == "Failed"
    assert life.message.endswith("; the models of the members are at pvc://a/b, pvc://a/b")


def test_what_a_report_notes_of_a_success_is_in_the_last_message() -> None:
    """Data that looks wrong, models that were removed: the log of a pod is not where a user looks after a success."""
    notes = ["the labels 'pos' and 'Pos' differ only in case", "removed 3 models of trials"]
    life = Life(parsed(job()))
    life.reconcile(at=0)
    model = WINNER.model_copy(update={"metrics": {"test_accuracy": 0.9}})
    report = RunReport(exit_code=ExitCode.DONE, message="trained 5 steps", model=model, notes=notes)
    life.reconcile(over(0, message=to_message(report)), at=1)
    assert life.phase == "Succeeded"
    assert life.message.endswith(f"test_accuracy 0.900; {notes[0]}; {notes[1]}")


def test_runs_come_first_and_a_parent_that_has_an_attempt_or_an_end_is_like_any_job() -> None:
    of = parsed(job("tune", **SEARCH))
    assert runs_children(of)
    assert not runs_children(replace(of, status=FineTuneJobStatus(attempt=1)))
    assert not runs_children(replace(of, status=FineTuneJobStatus(completion_time=T0)))
    assert not runs_children(parsed(job()))


@pytest.mark.parametrize("case", [case for case in ACCEPTED if "ensemble" in case.spec], ids=str)
def test_every_ensemble_that_the_api_server_takes_can_be_combined(case: Case) -> None:
    """Found out before its members train, not after: a CombineConfig takes what the spec takes."""
    of = parsed(manifest("tune", case.spec))
    of = replace(of, status=FineTuneJobStatus(members=MEMBERS))
    config = conclusion_config(of, resolve(of, settings()), 1, settings(), None)
    assert isinstance(config, CombineConfig)
    assert config.student or config.precision is not Precision.BFLOAT16, (
        "without a GPU the CPU may not compute in it"
    )


GPUS: dict[str, Any] = {"gpusPerNode": 2, "requests": {"memory": "1Gi"}}


def test_a_student_trains_with_the_resources_of_the_job() -> None:
    """The pod of every other parent has none of its GPUs."""
    training = {"precision": "BFloat16", "epochs": 4}
    for combine, gpus in (("Distil", 2), ("Vote", 0)):
        spec = {"ensemble": {"members": 2, "combine": combine}, "resources": GPUS, "training": training}
        if combine == "Vote":
            spec["training"] = training | {"evaluation": {"bestMetric": "accuracy"}}
        of = replace(parsed(job("team", **spec)), status=FineTuneJobStatus(members=MEMBERS))
        made = plan(of, resolve(of, settings()), 1, settings(), "CA")
        container = made.job["spec"]["template"]["spec"]["containers"][0]
        config = run_json(made)
        assert container["resources"]["limits"].get("nvidia.com/gpu", "0") == str(gpus)
        assert config["devices"]["gpus"] == gpus
        assert ("student" in config) is (combine == "Distil")
        if combine == "Distil":
            assert config["precision"] == config["student"]["training"]["precision"] == "BFloat16"
            assert config["student"]["training"]["epochs"] == 4
            assert config["student"]["model"]["path"] == "/mnt/claims/demo/models/minilm"
            assert config["student"]["distil"] == {"alpha": 0.5}
            assert config["student"]["workDir"] == f"/mnt/output/.finetune/{of.uid}/student"


def test_the_student_of_a_search_has_the_values_of_its_best_trial() -> None:
    parameters = {"training.optimizer.learningRate": 3e-4, "objective.classification.labelSmoothing": 0.1}
    of = parsed(
        job(
            "team",
            search=search_of(),
            ensemble={"fromSearch": 2, "combine": "Distil", "distil": {"temperature": 4}},
            training={"evaluation": {"bestMetric": "accuracy"}},
        )
    )
    of = replace(of, status=FineTuneJobStatus(members=MEMBERS))
    history = SearchHistory.model_validate(
        {
            "algorithm": "TPE",
            "metric": "accuracy",
            "trials": [
                {
                    "number": n,
                    "name": f"t{n}",
                    "state": "Succeeded",
                    "parameters": values,
                    "value": 0.8 + n / 100,
                }
                for n, values in ((1, {"training.optimizer.learningRate": 1e-5}), (2, parameters))
            ],
            "best": 2,
            "end": "all 2 trials have ended",
            "reportDir": "/mnt/output/team-trials",
        }
    )
    config = conclusion_config(of, resolve(of, settings()), 1, settings(), history)
    assert isinstance(config, CombineConfig) and config.student and config.student.objective
    assert config.student.training.optimizer.learning_rate == 3e-4
    assert config.student.objective.classification == ClassificationSpec(label_smoothing=0.1)
    assert config.objective.classification == ClassificationSpec(), "models are still compared alike"
    assert config.student.distil.temperature == 4


def test_the_deadline_covers_the_training_of_a_student() -> None:
    life = concluding({"ensemble": {"members": 2, "combine": "Distil"}, "activeDeadlineSeconds": 1200})
    assert life.reconcile(at=500).action is Action.CREATE_ATTEMPT
    life.reconcile(seen(child(), running_pod(since=seconds(510))), at=510)
    assert life.message == "attempt 1 trains a student of the members on node n1"
    life.reconcile(seen(child(), running_pod(since=seconds(510))), at=1210)
    assert life.message == "attempt 1 saves a checkpoint and stops (spec.activeDeadlineSeconds)"


@pytest.mark.parametrize(
    ("resources", "requests"),
    [
        ({"requests": {"cpu": "16", "memory": "64Gi"}}, {"cpu": "1", "memory": "2Gi"}),
        ({"limits": {"memory": "64Gi"}}, {"memory": "2Gi"}),
        ({"requests": {"cpu": "200m"}, "limits": {"memory": "1Gi"}}, {"cpu": "200m", "memory": "1Gi"}),
        ({"requests": {"ephemeral-storage": "9Gi"}}, {"ephemeral-storage": "9Gi"}),
        ({"requests": {"rdma/hca": "1"}, "limits": {"rdma/hca": "1", "nvidia.com/gpumem": "3000"}}, {}),
    ],
)
def test_a_pod_that_only_copies_the_best_model_does_not_ask_for_what_training_needs(
    resources: dict[str, Any], requests: dict[str, str]
) -> None:
    life = concluding({"search": search_of(), "resources": resources})
    trial = {"number": 1, "name": "t1", "state": "Succeeded", "parameters": {}, "value": 0.8}
    found = {
        "algorithm": "TPE",
        "metric": "accuracy",
        "trials": [trial],
        "best": 1,
        "end": "done",
        "reportDir": "/r",
    }
    history = SearchHistory.model_validate(found)
    made = plan(life.job, resolve(life.job, life.settings), 1, life.settings, "ca", history).job
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"] == requests
    asked = resources.get("limits", {}).items()
    assert container["resources"]["limits"] == {name: most for name, most in asked if "/" not in name}
