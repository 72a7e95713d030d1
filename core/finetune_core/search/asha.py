"""Asynchronous successive halving, its stopping variant (Li et al. 2020, arXiv:1810.05934). Pure."""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from finetune_api.search import AshaSpec
from finetune_core.search.trials import Evaluation, better

_ROUNDING = 1e-6

Evaluations = tuple[Evaluation, ...]


def rungs(asha: AshaSpec) -> Iterator[float]:
    """The epochs at which trials are compared, without end."""
    rung = asha.min_epochs
    while True:
        yield rung
        rung *= asha.reduction_factor


def why_pruned(
    asha: AshaSpec, metric: str, evaluations: Evaluations, others: Sequence[Evaluations]
) -> str | None:
    """Why a trial ends at its newest evaluation; None if it continues.

    Only the evaluation with which it reaches a rung decides, so that an old report never ends a trial. While fewer
    than `reductionFactor` trials have reached the rung, all continue.
    """
    rung = _reached(asha, evaluations)
    if rung is None:
        return None
    own = _best_until(rung, metric, evaluations)
    values = [value for other in others if (value := _best_until(rung, metric, other)) is not None]
    assert own is not None
    at_rung, kept = len(values) + 1, (len(values) + 1) // asha.reduction_factor
    ahead = sum(better(metric, value, own) for value in values)
    if kept == 0 or ahead < kept:
        return None
    return f"{metric} {own:.4g} after {rung:g} epochs is not among the best {kept} of {at_rung} trials there"


def _reached(asha: AshaSpec, evaluations: Evaluations) -> float | None:
    """The rung that the newest evaluation reaches, and the one before it did not."""
    if not evaluations:
        return None
    newest = evaluations[-1].epoch
    before = evaluations[-2].epoch if len(evaluations) > 1 else 0.0
    passed = takewhile(lambda rung: rung <= newest + _ROUNDING, rungs(asha))
    return next((rung for rung in reversed(list(passed)) if before + _ROUNDING < rung), None)


def _best_until(rung: float, metric: str, evaluations: Evaluations) -> float | None:
    """The best value up to the evaluation that reaches the rung; None if none does, or if it is not known any more."""
    if _begins_after(rung, evaluations):
        return None
    best: float | None = None
    for evaluation in evaluations:
        if best is None or better(metric, evaluation.value, best):
            best = evaluation.value
        if evaluation.epoch + _ROUNDING >= rung:
            return best
    return None


def _begins_after(rung: float, evaluations: Evaluations) -> bool:
    """Whether a status dropped the evaluations up to the rung: it keeps the newest ones."""
    if len(evaluations) < 2 or evaluations[0].epoch <= rung + _ROUNDING:
        return False
    interval = evaluations[1].epoch - evaluations[0].epoch
    return evaluations[0].epoch > interval + _ROUNDING
