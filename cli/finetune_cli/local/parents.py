"""A search or an ensemble on this machine: its runs one after the other, by the operator's decisions. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from importlib.util import find_spec
from typing import Any, NamedTuple

from finetune_api.search import Algorithm
from finetune_api.search_history import SearchHistory
from finetune_api.status import ModelStatus, ResolvedStatus
from finetune_core.decide.parents import ParentDecision
from finetune_core.ensemble.decision import Ensemble, decide_ensemble
from finetune_core.ensemble.members import values_of
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import Run
from finetune_core.plan.reading import status_of
from finetune_core.search.decision import Search, decide_search
from finetune_core.search.history import history_of
from finetune_core.search.plan import run_body
from finetune_core.search.samplers import RANDOM_TRIALS
from finetune_core.search.step import planned_trials, run_values, seen, with_importances, without_values
from finetune_core.search.trials import trial_of

Body = dict[str, Any]
Bodies = Mapping[Run, Body]

OPTUNA = "optuna"


class Step(NamedTuple):
    """What is decided, and the FineTuneJob of the run to create."""

    decision: ParentDecision
    body: Body | None = None


def lacks(job: FineTuneJob) -> str | None:
    """What this environment lacks for a search."""
    search = job.spec.search
    if search is None or search.algorithm is not Algorithm.TPE or find_spec(OPTUNA):
        return None
    if planned_trials(job.spec) <= RANDOM_TRIALS:
        return None
    return (
        f"spec.search: TPE needs {OPTUNA} from trial {RANDOM_TRIALS + 1} on, and it is not installed here;"
        f" pip install {OPTUNA}, or set algorithm: Random"
    )


def next_step(job: FineTuneJob, resolved: Resolved, bodies: Bodies, now: datetime) -> Step:
    """The next step of a search or an ensemble whose runs so far are these."""
    decide = _search_step if job.spec.search else _ensemble_step
    return decide(job, resolved, bodies, now)


def history(job: FineTuneJob, resolved: Resolved, bodies: Bodies) -> SearchHistory | None:
    """A search that has ended, for its report; None for an ensemble alone."""
    return history_of(_search(job, resolved, bodies)) if job.spec.search else None


def _search_step(job: FineTuneJob, resolved: Resolved, bodies: Bodies, now: datetime) -> Step:
    search = _search(job, resolved, bodies)
    model: ModelStatus | None = status_of(bodies[search.winner]).model if search.winner else None
    decision = decide_search(search, model, now)
    if decision.concludes and find_spec(OPTUNA):
        decision = replace(decision, status=with_importances(search, decision.status))
    if (run := decision.create) is None:
        return Step(decision)
    values = run_values(search, run)
    if values is None:
        return Step(decide_search(without_values(search), model, now))
    return Step(decision, run_body(job, resolved, run, values))


def _search(job: FineTuneJob, resolved: Resolved, bodies: Bodies) -> Search:
    spec, training = job.spec.search, job.spec.resolved_training()
    assert spec and training
    metric = training.evaluation.best_metric
    runs = {run: trial_of(run.trial, body, spec.parameters, metric) for run, body in bodies.items()}
    return seen(job, resolved, runs, planned_trials(job.spec), metric, _inputs(bodies))


def _ensemble_step(job: FineTuneJob, resolved: Resolved, bodies: Bodies, now: datetime) -> Step:
    training = job.spec.resolved_training()
    assert training
    metric = training.evaluation.best_metric
    members = tuple(trial_of(run.member, body, [], metric) for run, body in bodies.items())
    decision = decide_ensemble(Ensemble(job, resolved, members, metric, _inputs(bodies)), now)
    if (run := decision.create) is None:
        return Step(decision)
    return Step(decision, run_body(job, resolved, run, values_of(job.spec, run.member)))


def _inputs(bodies: Bodies) -> ResolvedStatus | None:
    return next((found for body in bodies.values() if (found := status_of(body).resolved)), None)
