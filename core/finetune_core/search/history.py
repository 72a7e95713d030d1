"""A search that has ended, as its report shows it. Pure."""

from itertools import takewhile

from finetune_api.search import KeepModels
from finetune_api.search_history import SearchedTrial, SearchHistory, fitting
from finetune_api.status import TrialState, TrialStatus
from finetune_core.plan.conclusion import on_output
from finetune_core.plan.naming import runs_uri
from finetune_core.search.asha import rungs
from finetune_core.search.decision import Search
from finetune_core.search.trials import Trial

_LARGEST = 900_000
"""Bytes: it travels in a ConfigMap of at most 1 MiB, with the rest of a configuration."""
_LONGEST_MESSAGE = 256


def history_of(search: Search) -> SearchHistory:
    """The trials that still exist, and what the status says of the search."""
    spec, found = search.spec, search.job.status.trials
    assert found and found.end
    trials = [_searched(trial) for trial in sorted(search.trials, key=lambda one: one.number)]
    if found.best and found.best.number not in {one.number for one in trials}:
        trials.append(_deleted(found.best))
    history = SearchHistory(
        algorithm=spec.algorithm,
        metric=search.metric,
        logarithmic=[one.path for one in spec.parameters if one.log_uniform],
        rungs=_rungs(search),
        trials=trials,
        repetitions=[repeat.trial.name for repeat in search.repeats],
        best=found.best.number if found.best else None,
        confirmed=found.confirmed,
        importances=found.importances or {},
        end=found.end,
        device_seconds=found.device_seconds,
        saved_seconds=found.saved_seconds,
        report_dir=on_output(runs_uri(search.resolved.output_uri)),
        discard=_discarded(search),
    )
    return fitting(history, _LARGEST)


def _searched(trial: Trial) -> SearchedTrial:
    return SearchedTrial(
        number=trial.number,
        name=trial.name,
        state=TrialState.STOPPED if trial.open else trial.state,
        message=trial.message[:_LONGEST_MESSAGE] if trial.state is TrialState.FAILED else "",
        parameters=trial.values,
        value=trial.value,
        seconds=trial.seconds,
        evaluations=[[one.epoch, one.value] for one in trial.evaluations],
    )


def _deleted(best: TrialStatus) -> SearchedTrial:
    """The best trial, which somebody deleted after the search: the status knows its values."""
    return SearchedTrial(
        number=best.number,
        name=best.name,
        state=best.state,
        parameters=dict(best.parameters),
        value=best.value,
    )


def _rungs(search: Search) -> list[float]:
    """Those that a trial of the search reached."""
    asha = search.spec.pruner.asha if search.spec.pruner else None
    if asha is None:
        return []
    last = max((one.epoch for trial in search.trials for one in trial.evaluations), default=0.0)
    return list(takewhile(lambda rung: rung <= last, rungs(asha)))


def _discarded(search: Search) -> list[str]:
    """The folders of models that are not kept."""
    if search.spec.keep_models is KeepModels.ALL:
        return []
    return [on_output(run.uri) for run in search.runs.values() if run.uri]
