"""How much each searched field mattered. Pure."""

import warnings
from collections.abc import Sequence

from finetune_api.search import ParameterSpec
from finetune_api.status import TrialState
from finetune_core.search.samplers import study_of
from finetune_core.search.trials import Trial

FEWEST = 10
"""Successful trials below which shares would be noise."""


def importances(
    parameters: Sequence[ParameterSpec], trials: Sequence[Trial], metric: str
) -> dict[str, float]:
    """Share of each field in what sets the best tenth of the trials apart, by PED-ANOVA (Watanabe et al. 2023).

    Without fields under a condition, which not every trial has. Empty for fewer than ten successful trials.
    """
    always = [parameter for parameter in parameters if parameter.when is None]
    whole = [trial for trial in trials if trial.state is TrialState.SUCCEEDED]
    if len(whole) < FEWEST or len({trial.value for trial in whole}) < 2:
        return {}
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        kept = [Trial(t.number, t.name, t.state, _only(t, always), t.value) for t in whole]
        return optuna.importance.get_param_importances(
            study_of(always, kept, metric), evaluator=evaluator, params=[each.path for each in always]
        )


def _only(trial: Trial, parameters: Sequence[ParameterSpec]) -> dict[str, object]:
    return {each.path: trial.values[each.path] for each in parameters if each.path in trial.values}
