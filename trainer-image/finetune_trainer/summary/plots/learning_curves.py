"""Learning curves: the value of every trial by epoch, with the rungs at which bad trials were pruned."""

from typing import Any

from finetune_api.search_history import SearchedTrial, SearchHistory
from finetune_api.status import TrialState
from finetune_trainer.summary.plots.figure import (
    BEST,
    COLOURS,
    MARKERS,
    frame,
    maximizes,
    new_figure,
    outside,
    padded,
    value_range,
)

_FENCE = 10.0
"""Wider than for results: the first evaluations of a good trial are bad."""
EXPLANATION = (
    "The value at each evaluation during training. Dotted lines are the rungs: a pruned trial was not among the best"
    " at its last one."
)


def absent(history: SearchHistory) -> str:
    """Why there is nothing to draw."""
    return "" if any(trial.evaluations for trial in history.trials) else "no trial reported an evaluation"


def draw(history: SearchHistory) -> Any:
    """The figure."""
    figure = new_figure(9, 4.6)
    axis = figure.subplots()
    values = [value for trial in history.trials for _, value in trial.evaluations]
    limits = value_range(values, maximize=maximizes(history), fence=_FENCE)
    farthest = max(epoch for trial in history.trials for epoch, _ in trial.evaluations)
    for rung in history.rungs:
        if rung <= farthest:
            axis.axvline(rung, color="#999999", linestyle=":", linewidth=1.2, zorder=1)
    for state in COLOURS:
        _curves(axis, history, state)
    best = history.best_trial
    if best is not None and best.evaluations:
        _curve(axis, best, BEST, label=f"best: trial {best.number}", linewidth=2.4, zorder=6)
    axis.set_ylim(*padded(limits))
    axis.set_xlim(0, farthest * 1.03 or 1)
    kept = history.evaluations_kept
    axis.set_xlabel("epoch" if kept is None else f"epoch (at most {kept} evaluations of each trial)")
    hidden = outside(values, limits)
    axis.set_ylabel(f"{history.metric}{f' ({hidden} values beyond the edge)' if hidden else ''}")
    frame(axis, 6)
    return figure


def _curves(axis: Any, history: SearchHistory, state: TrialState) -> None:
    trials = [t for t in history.trials if t.state is state and t.evaluations and t.number != history.best]
    alpha = max(0.15, min(0.8, 8 / max(1, len(trials)) ** 0.7))
    for index, trial in enumerate(trials):
        label = state.lower() if index == 0 else None
        _curve(axis, trial, COLOURS[state], label=label, linewidth=1.2, alpha=alpha, zorder=3)


def _curve(axis: Any, trial: SearchedTrial, colour: str, **style: Any) -> None:
    """A line whose last point has the marker of the trial's end."""
    epochs, values = zip(*sorted(trial.evaluations), strict=True)
    hollow = {} if trial.state is TrialState.FAILED else {"markerfacecolor": "white"}
    if trial.state is TrialState.SUCCEEDED:
        hollow = {}
    marker = {"marker": MARKERS.get(trial.state, "o"), "markevery": [len(epochs) - 1], "markersize": 4.5}
    axis.plot(epochs, values, color=colour, **marker, **hollow, **style)
