"""What the report of a search shows."""

from dataclasses import replace
from typing import Any

from finetune_api.search_history import SearchHistory
from finetune_api.status import FineTuneJobStatus, TrialState
from finetune_core.plan.effective import resolve
from finetune_core.plan.naming import Run
from finetune_core.search.decision import Search, trials_status
from finetune_core.search.history import history_of
from finetune_core.search.trials import Repeat, Trial
from unit.operator.search.spaces import RATE, RATES, curve, parent, trial
from unit.operator.worlds import settings

FOLDER = "/mnt/output/model-trials"


def history_after(
    *trials: Trial, gone: tuple[Trial, ...] = (), repeats: tuple[Repeat, ...] = (), **of: Any
) -> SearchHistory:
    """The history of a search that ended with these trials; those that are `gone` were deleted since."""
    job = parent(RATES, **of)
    ended = Search(job, resolve(job, settings()), (*trials, *gone), 9, "loss", repeats)
    status = FineTuneJobStatus(trials=trials_status(ended, end="all 9 trials have ended"))
    history = history_of(replace(ended, trials=trials, job=replace(job, status=status)))
    assert SearchHistory.from_json(history.to_json()) == history
    return history


def done(number: int, value: float, **fields: Any) -> Trial:
    uri = f"pvc://tune-7d2c1e8a/model-trials/t{number:03}"
    return trial(number, value=value, uri=uri, values={RATE: 1e-4}, **fields)


def test_every_trial_is_reported_with_its_values_and_why_it_failed() -> None:
    failed = trial(2, TrialState.FAILED, message="row 7 is not JSON")
    history = history_after(done(3, 0.2), failed, done(1, 0.5, seconds=7, evaluations=curve(0.9, 0.5)))
    assert [one.number for one in history.trials] == [1, 2, 3]
    assert history.trials[0].evaluations == [[1.0, 0.9], [2.0, 0.5]]
    assert history.trials[1].message == "row 7 is not JSON"
    assert (history.best, history.logarithmic, history.end) == (3, [RATE], "all 9 trials have ended")
    assert history.report_dir == FOLDER


def test_a_trial_that_the_end_of_the_search_stopped_is_reported_as_stopped() -> None:
    """Its own FineTuneJob is suspended; the plots have no such trial, and left it out."""
    stopped = trial(2, TrialState.SUSPENDED, suspended=True, value=0.3, evaluations=curve(0.3))
    assert [one.state for one in history_after(done(1, 0.5), stopped).trials] == ["Succeeded", "Stopped"]


def test_the_rungs_are_those_that_were_reached() -> None:
    pruner = {"asha": {"minEpochs": 1, "reductionFactor": 3}}
    assert history_after(done(1, 0.5, evaluations=curve(*[0.5] * 8)), pruner=pruner).rungs == [1, 3]
    assert history_after(done(1, 0.5, evaluations=curve(*[0.5] * 8))).rungs == []


def test_models_that_are_not_kept_are_named_with_those_of_repetitions() -> None:
    again = Repeat(
        Run(1, 1, 1), replace(done(1, 0.4), name="tune-c1s1", uri="pvc://tune-7d2c1e8a/model-trials/c1s1")
    )
    history = history_after(done(1, 0.5), trial(2, TrialState.PRUNED), repeats=(again,), keepModels="Best")
    assert history.discard == [f"{FOLDER}/t001", f"{FOLDER}/c1s1"]
    assert history.repetitions == ["tune-c1s1"]
    assert history_after(done(1, 0.5)).discard == []


def test_a_best_trial_that_was_deleted_since_is_reported_as_the_status_knows_it() -> None:
    history = history_after(done(1, 0.5), gone=(done(2, 0.1),))
    assert history.best == 2
    assert history.best_trial
    assert (history.best_trial.value, history.best_trial.parameters) == (0.1, {RATE: "0.0001"})
