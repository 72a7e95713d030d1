"""History: the value of every trial by its number, and the best value so far."""

from typing import Any

from finetune_api.metrics import improves, plain
from finetune_api.search_history import SearchHistory
from finetune_api.status import CombinationStatus, TrialState
from finetune_trainer.summary.plots.figure import (
    BEST,
    COLOURS,
    ENSEMBLE,
    MARKERS,
    frame,
    maximizes,
    new_figure,
    outside,
    padded,
    value_range,
)

EXPLANATION = (
    "The value of each trial. Pruned and failed trials have their best value so far; those without any are at the"
    " edge of bad values. The line is the best value of the successful trials so far. If the best trials became an"
    " ensemble that was compared on validation rows, a dashed line has its value, and the legend its gain over the"
    " best of them."
)


def absent(history: SearchHistory) -> str:
    """Why there is nothing to draw."""
    return "" if history.trials else "there are no trials"


def draw(history: SearchHistory, combination: CombinationStatus | None = None) -> Any:
    """The figure."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(9, 4.2)
    axis = figure.subplots()
    values = [trial.value for trial in history.trials if trial.value is not None]
    combined = _combined(history, combination)
    limits = value_range(values, maximize=maximizes(history)) if values else (0.0, 1.0)
    if combined is not None:
        limits = min(limits[0], combined), max(limits[1], combined)
    low, high = padded(limits)
    for state in COLOURS:
        _points(axis, history, state, (low, high))
    _best_so_far(axis, history)
    _confirmed(axis, history)
    best = history.best_trial
    if best is not None:
        label = f"best: trial {best.number}"
        star = {"marker": "*", "markersize": 15, "linestyle": "none", "color": BEST, "zorder": 6}
        axis.plot([best.number], [best.value], label=label, **star)
    if combination is not None and combined is not None:
        label = f"ensemble of {combination.used}: {combined:.4g}{_gain(combination)}"
        axis.axhline(combined, label=label, linestyle="--", linewidth=1.6, color=ENSEMBLE, zorder=4)
    axis.set_ylim(low, high)
    last = max(trial.number for trial in history.trials)
    axis.set_xlim(1 - max(0.5, last * 0.02), last + max(0.5, last * 0.02))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_xlabel("trial")
    hidden = outside(values, limits)
    axis.set_ylabel(f"{history.metric}{f' ({hidden} beyond the edge)' if hidden else ''}")
    if not values:
        axis.set_yticks([])
    frame(axis, 6)
    return figure


def _combined(history: SearchHistory, combination: CombinationStatus | None) -> float | None:
    """The value of the ensemble, if it has the metric and the kind of rows of the trials."""
    if combination is None or combination.metric != f"eval_{plain(history.metric)}":
        return None
    return combination.combined


def _gain(combination: CombinationStatus) -> str:
    return "" if combination.gain is None else f" (gain {combination.gain:+.2g})"


def _points(axis: Any, history: SearchHistory, state: TrialState, limits: tuple[float, float]) -> None:
    trials = [trial for trial in history.trials if trial.state is state]
    if not trials:
        return
    low, high = limits
    worst = low if maximizes(history) else high
    heights = [worst if t.value is None else min(max(t.value, low), high) for t in trials]
    small = len(history.trials) > 200
    style = {"marker": MARKERS[state], "s": 14 if small else 36, "color": COLOURS[state], "linewidths": 1.3}
    filled = {} if state is TrialState.FAILED else {"facecolors": COLOURS[state] if _whole(state) else "none"}
    axis.scatter(
        [trial.number for trial in trials],
        heights,
        label=state.lower(),
        clip_on=False,
        zorder=3,
        **style | filled,
    )


def _whole(state: TrialState) -> bool:
    return state is TrialState.SUCCEEDED


def _best_so_far(axis: Any, history: SearchHistory) -> None:
    numbers, bests = list[int](), list[float]()
    for trial in history.trials:
        if trial.state is TrialState.SUCCEEDED and trial.value is not None:
            better = improves(history.metric, trial.value, bests[-1] if bests else None)
            numbers.append(trial.number)
            bests.append(trial.value if better else bests[-1])
    if numbers:
        last = max(trial.number for trial in history.trials)
        steps = {"where": "post", "color": BEST, "linewidth": 1.6, "alpha": 0.8, "zorder": 2}
        axis.step([*numbers, last], [*bests, bests[-1]], label="best so far", **steps)


def _confirmed(axis: Any, history: SearchHistory) -> None:
    repeated = [one for one in history.confirmed if one.mean is not None]
    if repeated:
        axis.errorbar(
            [one.number for one in repeated],
            [one.mean for one in repeated],
            yerr=[one.spread or 0.0 for one in repeated],
            fmt="D",
            markersize=5,
            markerfacecolor="white",
            color="#222222",
            capsize=4,
            linewidth=1.2,
            zorder=7,
            label="mean with other seeds",
        )
