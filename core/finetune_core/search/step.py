"""What the operator and `finetune local` put into and beside a decision about a search. Pure.

Optuna is imported when a value is proposed by TPE, and for importances.
"""

from collections.abc import Mapping
from dataclasses import replace

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.search import DEFAULT_TRIALS, MOST_TRIALS, Algorithm
from finetune_api.status import FineTuneJobStatus, ResolvedStatus
from finetune_core.decide.parents import invalid
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import Run
from finetune_core.search.decision import Search
from finetune_core.search.importance import importances
from finetune_core.search.plan import reseeded
from finetune_core.search.samplers import propose
from finetune_core.search.space import Values, combinations
from finetune_core.search.trials import Repeat, Trial

_NOTHING_FITS = "spec.search.parameters: the spec's rules refused 50 drawn combinations in a row"
_NO_COMBINATION = "spec.search.parameters: the spec's rules refuse every combination"


def planned_trials(spec: FineTuneJobSpec) -> int:
    """The number of trials of a search. Listed values are combined and checked for it, which may take seconds."""
    search = spec.search
    assert search
    most = search.max_trials or (MOST_TRIALS if search.algorithm is Algorithm.GRID else DEFAULT_TRIALS)
    return len(combinations(spec, most)) if search.listed else most


def seen(
    job: FineTuneJob,
    resolved: Resolved,
    runs: Mapping[Run, Trial],
    planned: int,
    metric: str,
    inputs: ResolvedStatus | None,
) -> Search:
    """A search with these runs. One that plans no trial has a fault."""
    trials = tuple(trial for run, trial in runs.items() if run.is_trial)
    repeats = tuple(Repeat(run, trial) for run, trial in runs.items() if not run.is_trial)
    search = Search(job, resolved, trials, planned, metric, repeats, inputs)
    return search if planned or search.total else replace(search, fault=invalid(_NO_COMBINATION))


def run_values(search: Search, run: Run) -> Values | None:
    """Those of a trial, or of a repetition; None if the spec takes none of those that were tried."""
    if run.is_trial:
        return propose(search.job.spec, run.trial, search.trials, search.metric)
    return reseeded(search.job.spec, search.runs[Run(run.trial)].values, run.seed)


def without_values(search: Search) -> Search:
    """The search whose next trial has no values that the spec takes."""
    return replace(search, fault=invalid(_NOTHING_FITS))


def with_importances(search: Search, status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status of a search that ends, with how much each field mattered."""
    assert status.trials
    found = importances(search.spec.parameters, search.trials, search.metric)
    return status.model_copy(
        update={"trials": status.trials.model_copy(update={"importances": found or None})}
    )
