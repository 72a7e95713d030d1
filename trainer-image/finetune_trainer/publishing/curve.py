"""Draws the learning curve of a run."""

from pathlib import Path
from typing import Any

from finetune_api.metrics import plain

Entry = dict[str, Any]
COLOURS = {"train": "C0", "evaluation": "C1"}


def draw_curve(path: Path, entries: list[Entry], best_metric: str) -> None:
    """Training and validation loss over the steps, and the deciding metric below if it is another one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric = plain(best_metric)
    rows = 1 if metric == "loss" else 2
    figure = Figure(figsize=(7, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, squeeze=False, sharex=True)[:, 0]
    _line(axes[0], entries, "train", "loss", "training")
    _line(axes[0], entries, "evaluation", "eval_loss", "validation", marker="o")
    axes[0].set_ylabel("loss")
    if rows == 2:
        _line(axes[1], entries, "evaluation", f"eval_{metric}", "validation", marker="o")
        axes[1].set_ylabel(metric)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend()
    axes[-1].set_xlabel("optimizer step")
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _line(axis: Any, entries: list[Entry], event: str, key: str, label: str, marker: str = "") -> None:
    points = [(e["step"], e[key]) for e in entries if e.get("event") == event and e.get(key) is not None]
    color = COLOURS[event]
    axis.plot([x for x, _ in points], [y for _, y in points], color, label=label, marker=marker, markersize=4)
