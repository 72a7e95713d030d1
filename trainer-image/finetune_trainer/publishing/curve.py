"""Draws the learning curve: losses and the best metric over the steps, with the best evaluation and an early stop."""

from pathlib import Path
from typing import Any

from finetune_api.metrics import improves, plain

Entry = dict[str, Any]
Points = list[tuple[int, float]]

TRAINING, VALIDATION, BEST, STOPPED = "#4878a8", "#d9731a", "#2a7f3f", "#777777"
SMOOTHED_FROM = 8
"""Fewer points are drawn as they are."""


def draw_curve(path: Path, entries: list[Entry], best_metric: str, stopped_at: int | None = None) -> None:
    """Write the picture: training and validation loss, and beside them the best metric if it is another one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric = plain(best_metric)
    evaluations = points(entries, "evaluation", f"eval_{metric}")
    panels = 1 if metric == "loss" else 2
    figure = Figure(figsize=(7.2 if panels == 1 else 10, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False, sharex=True)[0]
    _losses(axes[0], entries)
    if panels == 2:
        axes[1].plot(*_xy(evaluations), color=VALIDATION, marker="o", markersize=4, label="validation")
        axes[1].set_ylabel(metric)
    best = best_of(evaluations, metric)
    for axis in axes:
        _mark(axis, best, stopped_at, metric if axis is axes[-1] else None)
        _finish(axis, 3 if panels == 1 else 2)
    if best is not None:
        axes[-1].plot(*_xy([best]), color=BEST, marker="*", markersize=14, linestyle="none", zorder=5)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def points(entries: list[Entry], event: str, key: str) -> Points:
    """Step and value of every entry of a kind that has the number."""
    return [(e["step"], e[key]) for e in entries if e.get("event") == event and e.get(key) is not None]


def smoothed(found: Points) -> Points:
    """Exponential moving average over about a sixth of the points, without bias towards 0 at the start."""
    keep = 1 - 2 / (max(3, len(found) / 6) + 1)
    total = weight = 0.0
    means = []
    for step, value in found:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        means.append((step, total / weight))
    return means


def _losses(axis: Any, entries: list[Entry]) -> None:
    train, validation = points(entries, "train", "loss"), points(entries, "evaluation", "eval_loss")
    if len(train) < SMOOTHED_FROM:
        axis.plot(*_xy(train), color=TRAINING, label="training")
    else:
        axis.plot(*_xy(train), color=TRAINING, alpha=0.3, linewidth=1, label="training, raw")
        axis.plot(*_xy(smoothed(train)), color=TRAINING, linewidth=2, label="training, smoothed")
    axis.plot(*_xy(validation), color=VALIDATION, marker="o", markersize=4, label="validation")
    axis.set_ylabel("loss")


def best_of(evaluations: Points, metric: str) -> tuple[int, float] | None:
    """The best evaluation, the first of equal ones; None without any."""
    best: tuple[int, float] | None = None
    for step, value in evaluations:
        if improves(metric, value, best and best[1]):
            best = step, value
    return best


def _mark(axis: Any, best: tuple[int, float] | None, stopped_at: int | None, metric: str | None) -> None:
    """Vertical lines at the best evaluation and at an early stop, in the legend of the panel that shows `metric`."""
    if best is not None:
        label = f"best {metric}: {best[1]:.4g} at step {best[0]:,}" if metric else None
        axis.axvline(best[0], color=BEST, linestyle=":", linewidth=1.4, label=label)
    if stopped_at is not None:
        label = f"early stop at step {stopped_at:,}" if metric else None
        axis.axvline(stopped_at, color=STOPPED, linestyle="--", linewidth=1.2, label=label)


def _finish(axis: Any, columns: int) -> None:
    axis.set_xlabel("optimizer step")
    axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.08)
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    axis.legend(**place, ncols=columns, frameon=False, fontsize=9, handlelength=1.6, columnspacing=1.2)


def _xy(found: Points) -> tuple[list[int], list[float]]:
    return [x for x, _ in found], [y for _, y in found]
