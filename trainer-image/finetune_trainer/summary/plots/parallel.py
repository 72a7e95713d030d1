"""Parallel coordinates: every trial as a line through its values and its result."""

from typing import Any

from finetune_api.search_history import SearchedTrial, SearchHistory
from finetune_api.status import TrialState
from finetune_trainer.summary.plots.axes import ABSENT, Axis, axis_of, number_axis
from finetune_trainer.summary.plots.figure import BEST, maximizes, new_figure, outside, value_range
from finetune_trainer.summary.values import short_names

EXPLANATION = (
    "Each line is a trial with a value: the darker, the better; grey lines did not train to their end; the green one is"
    " the best. Better results are at the top of the last axis. A line at “not searched” is a trial to which"
    " the field does not apply."
)
_BELOW = -0.12
"""Place of trials to which a field does not apply."""
_WIDTH, _SHADES = 1.25, ("#c4d4e4", "#12385e")
_LONGEST_NAME = 28


def absent(history: SearchHistory) -> str:
    """Why there is nothing to draw."""
    if not any(trial.parameters for trial in history.trials):
        return "no trial has values of searched fields"
    return "" if any(trial.value is not None for trial in history.trials) else "no trial has a value"


def draw(history: SearchHistory) -> Any:
    """The figure."""
    trials = [trial for trial in history.trials if trial.value is not None]
    paths = list(dict.fromkeys(path for trial in trials for path in trial.parameters))
    paths.sort(key=lambda path: -history.importances.get(path, 0.0))
    axes = [
        axis_of(
            [trial.parameters.get(path, ABSENT) for trial in trials], logarithmic=path in history.logarithmic
        )
        for path in paths
    ]
    values = [trial.value for trial in trials if trial.value is not None]
    limits = value_range(values, maximize=maximizes(history))
    result = number_axis(values, limits)
    result = result if maximizes(history) else _upside_down(result)
    figure = new_figure(max(9.0, _WIDTH * (len(axes) + 1)), 4.8)
    plot = figure.subplots()
    hidden = outside(values, limits)
    names = short_names(paths)
    last = f"{history.metric}{f' ({hidden} beyond)' if hidden else ''}"
    _lines(plot, history, trials, [*axes, result])
    for position, (axis, name) in enumerate(
        zip([*axes, result], [*(names[path] for path in paths), last], strict=True)
    ):
        _axis(plot, position, axis, name, slanted=len(axes) > 5)
    plot.set_xlim(-0.15, len(axes) + 0.6)
    plot.set_ylim(_BELOW - 0.05 if any(None in axis.places for axis in axes) else -0.04, 1.04)
    plot.axis("off")
    return figure


def _tail(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"


def _upside_down(axis: Axis) -> Axis:
    places = [None if place is None else 1 - place for place in axis.places]
    return Axis(places, [(1 - place, text) for place, text in axis.ticks])


def _lines(plot: Any, history: SearchHistory, trials: list[SearchedTrial], axes: list[Axis]) -> None:
    """The best trial last, above all others; the better, the darker."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("trials", _SHADES)
    alpha = max(0.2, min(0.85, 12 / len(trials) ** 0.75))
    steps = range(len(axes))
    for number, trial in enumerate(trials):
        places = [axis.places[number] for axis in axes]
        heights = [_BELOW if place is None else place for place in places]
        if trial.number == history.best:
            plot.plot(steps, heights, color=BEST, linewidth=2.6, zorder=5)
            plot.plot(
                [steps[-1]], heights[-1:], color=BEST, marker="*", markersize=15, zorder=6, clip_on=False
            )
        elif trial.state is TrialState.SUCCEEDED:
            colour = shades(heights[-1])
            plot.plot(steps, heights, color=colour, alpha=alpha, linewidth=1.3, zorder=2 + heights[-1])
        else:
            plot.plot(steps, heights, color="#999999", alpha=alpha * 0.6, linewidth=0.9, zorder=1)


def _axis(plot: Any, position: int, axis: Axis, name: str, *, slanted: bool) -> None:
    plot.plot([position, position], [0, 1], color="#444444", linewidth=1, zorder=4)
    turned = {"rotation": 25, "ha": "left"} if slanted else {"ha": "center"}
    plot.text(position, 1.05, _tail(name), va="bottom", fontsize=9, fontweight="bold", **turned)
    ticks = [*axis.ticks, *([(_BELOW, "not searched")] if None in axis.places else [])]
    behind = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    for place, text in ticks:
        plot.plot([position - 0.02, position], [place, place], color="#444444", linewidth=1, zorder=4)
        plot.text(position + 0.03, place, text, va="center", fontsize=8, zorder=7, bbox=behind)
