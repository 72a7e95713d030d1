"""The values of the next trial: a function of the search, the trial's number and the trials before it. Pure.

Nothing is kept between two trials: the sampler's state is rebuilt from the trials, so that an operator that was
killed chooses the same values again.
"""

from __future__ import annotations  # optuna's names are for types only

import json
import math
import random
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.metrics import Direction, direction
from finetune_api.search import Algorithm, ParameterSpec
from finetune_api.status import TrialState
from finetune_core.search.space import Values, combinations, fits, grid
from finetune_core.search.trials import Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as Asked

RANDOM_TRIALS = 10
"""Trials of TPE that are random, as many as Optuna's default."""
_DRAWS = 50
_DRAWS_BY_TPE = 10
"""Where the rules refuse what TPE likes best, it likes the same again; then random values are drawn."""
_STEPS_PER_EPOCH = 1000


def propose(spec: FineTuneJobSpec, number: int, trials: Sequence[Trial], metric: str) -> Values | None:
    """The values of trial `number`; None if the spec takes none of those that were tried.

    A grid's trial has the combination of its number. The other algorithms draw again, up to 50 times, while the spec's
    rules refuse a combination, or an earlier trial has it: with the same seed it would have the same result. Then the
    first combination of the grid that no trial has is taken, if the values are listed.
    """
    search = spec.search
    assert search
    if search.algorithm is Algorithm.GRID:
        found = combinations(spec, number)
        return found[number - 1] if number <= len(found) else None
    before = sorted((one for one in trials if one.number < number), key=lambda one: one.number)
    tried, again = [one.values for one in before], None
    for values in _proposals(spec, number, before, metric):
        if fits(spec, values):
            if values not in tried:
                return values
            again = values
    return _untried(spec, tried) or again


def _proposals(spec: FineTuneJobSpec, number: int, before: Sequence[Trial], metric: str) -> Iterator[Values]:
    """What to try, the best first: a few by TPE, then random ones."""
    search = spec.search
    assert search
    seed = seed_of(spec)
    seeds = [f"{seed}/{number}/{draw}" for draw in range(_DRAWS)]
    if search.algorithm is Algorithm.TPE and len(before) >= RANDOM_TRIALS:
        yield from islice(_by_tpe(search.parameters, seeds[0], before, metric), _DRAWS_BY_TPE)
        seeds = seeds[_DRAWS_BY_TPE:]
    for each in seeds:
        yield _drawn(search.parameters, each)


def _untried(spec: FineTuneJobSpec, tried: Sequence[Values]) -> Values | None:
    assert spec.search
    if not spec.search.listed:
        return None
    return next((one for one in grid(spec.search) if one not in tried and fits(spec, one)), None)


def seed_of(spec: FineTuneJobSpec) -> int:
    """The seed of a search."""
    training = spec.resolved_training()
    assert spec.search and training
    return training.seed if spec.search.seed is None else spec.search.seed


def _drawn(parameters: Sequence[ParameterSpec], seed: str) -> Values:
    """Independent random values."""
    source = random.Random(seed)  # noqa: S311 — not a secret
    values: Values = {}
    for parameter in sorted(parameters, key=lambda parameter: parameter.when is not None):
        value = _draw(parameter, source)
        if parameter.applies(values):
            values[parameter.path] = value
    return values


def _draw(parameter: ParameterSpec, source: random.Random) -> Any:
    if parameter.listed is not None:
        return source.choice(parameter.listed)
    if parameter.uniform:
        return source.uniform(parameter.uniform.min, parameter.uniform.max)
    assert parameter.log_uniform
    low, high = parameter.log_uniform.min, parameter.log_uniform.max
    return min(max(math.exp(source.uniform(math.log(low), math.log(high))), low), high)


def _by_tpe(
    parameters: Sequence[ParameterSpec], seed: str, trials: Sequence[Trial], metric: str
) -> Iterator[Values]:
    """The tree-structured Parzen estimator, fed with the trials; running ones count as bad (constant liar).

    So does what it proposed before, which makes the next proposal another one.
    """
    import optuna  # here: an operator without a search does not load it

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=0,
            multivariate=True,
            constant_liar=True,
            seed=random.Random(seed).getrandbits(32),  # noqa: S311 — not a secret
        )
    study = study_of(parameters, trials, metric, sampler)
    while True:
        yield _asked(study.ask(), parameters)


def study_of(
    parameters: Sequence[ParameterSpec],
    trials: Sequence[Trial],
    metric: str,
    sampler: BaseSampler | None = None,
) -> Study:
    """An Optuna study in memory with these trials."""
    import optuna

    maximize = direction(metric) is Direction.MAXIMIZE
    study = optuna.create_study(sampler=sampler, direction="maximize" if maximize else "minimize")
    distributions = {parameter.path: _distribution(parameter) for parameter in parameters}
    for trial in trials:
        if frozen := _frozen(trial, distributions):
            study.add_trial(frozen)
    return study


def _asked(asked: Asked, parameters: Sequence[ParameterSpec]) -> Values:
    values: Values = {}
    for parameter in sorted(parameters, key=lambda parameter: parameter.when is not None):
        if parameter.applies(values):
            values[parameter.path] = _suggest(asked, parameter)
    return values


def _suggest(asked: Asked, parameter: ParameterSpec) -> Any:
    path = parameter.path
    if parameter.choice is not None:
        return json.loads(asked.suggest_categorical(path, _categories(parameter.choice)))
    if parameter.integer:
        values = parameter.integer.values
        return asked.suggest_int(path, values[0], values[-1], step=values.step)
    ends = parameter.uniform or parameter.log_uniform
    assert ends
    return asked.suggest_float(path, ends.min, ends.max, log=parameter.log_uniform is not None)


def _categories(choice: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(map(json.dumps, choice)))


def _frozen(trial: Trial, distributions: dict[str, BaseDistribution]) -> FrozenTrial | None:
    """A trial as Optuna has it; None if it has no result, or if somebody changed its values."""
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import TrialState as State
    from optuna.trial import create_trial

    fields: dict[str, Any] = {
        "params": {
            path: json.dumps(value) if isinstance(distributions[path], CategoricalDistribution) else value
            for path, value in trial.values.items()
        },
        "distributions": {path: distributions[path] for path in trial.values},
    }
    try:
        if trial.state is TrialState.SUCCEEDED:
            return create_trial(state=State.COMPLETE, value=trial.value, **fields)
        if trial.state is TrialState.PRUNED:
            return create_trial(state=State.PRUNED, intermediate_values=_intermediate(trial), **fields)
        return create_trial(state=State.RUNNING, **fields) if trial.open else None
    except (TypeError, ValueError):  # a value outside the parameter's range
        return None


def _intermediate(trial: Trial) -> dict[int, float]:
    return {round(one.epoch * _STEPS_PER_EPOCH): one.value for one in trial.evaluations}


def _distribution(parameter: ParameterSpec) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.choice is not None:
        return CategoricalDistribution(_categories(parameter.choice))
    if parameter.integer:
        values = parameter.integer.values
        return IntDistribution(values[0], values[-1], step=values.step)
    ends = parameter.uniform or parameter.log_uniform
    assert ends
    return FloatDistribution(ends.min, ends.max, log=parameter.log_uniform is not None)
