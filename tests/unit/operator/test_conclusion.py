"""The attempt of a search or an ensemble itself, when its runs have ended."""

from dataclasses import replace
from typing import Any

import pytest

from builders import job, manifest
from finetune_api.combine import CombineConfig
from finetune_api.run import ExitCode, RunReport, to_message
from finetune_api.status import FineTuneJobStatus, MemberStatus, ModelStatus, Phase, Reason, TrialState
from finetune_api.training import Precision
from finetune_core.decide.actions import Action
from finetune_core.decide.conditions import Verdict, conditions_of
from finetune_core.decide.parents import runs_children
from finetune_core.plan.conclusion import conclusion_config
from finetune_core.plan.effective import resolve
from unit.api.cases import ACCEPTED, Case
from unit.operator.search.spaces import search_of
from unit.operator.worlds import T0, Life, child, over, parsed, running_pod, seen, settings

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
    assert config.precision is not Precision.BFLOAT16, "the pod has no GPU, and its CPU may not compute in it"
