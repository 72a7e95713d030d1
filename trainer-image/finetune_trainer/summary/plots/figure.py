"""What all plots of a search share: colours, frame, a range of values without outliers, and the way to a PNG."""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from finetune_api.metrics import Direction, direction
from finetune_api.search_history import SearchHistory
from finetune_api.status import TrialState

BEST = "#2a7f3f"
ENSEMBLE = "#7a3fa0"
COLOURS = {
    TrialState.SUCCEEDED: "#4878a8",
    TrialState.PRUNED: "#d9731a",
    TrialState.FAILED: "#b03030",
    TrialState.STOPPED: "#777777",
}
MARKERS = {
    TrialState.SUCCEEDED: "o",
    TrialState.PRUNED: "v",
    TrialState.FAILED: "x",
    TrialState.STOPPED: "s",
}
DOTS_PER_PIXEL = 1.5
_DOTS_PER_INCH = 120
FENCE = 3.0
"""Quartile ranges beyond which a bad value is drawn at the edge."""
_FEWEST = 8
"""Values below which all are shown."""


def new_figure(width: float, height: float) -> Any:
    """A figure of this size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_of(draw: Callable[[SearchHistory], Any], history: SearchHistory) -> bytes:
    """Draw and encode; texts of a user are no formulas. DOTS_PER_PIXEL is of the page."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # drawn as a box; the table has the text
        file = io.BytesIO()
        draw(history).savefig(file, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
        return file.getvalue()


def frame(axis: Any, columns: int) -> None:
    """Grid, no upper and right border, the legend above."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    legend = axis.legend(
        **place, ncols=columns, frameon=False, fontsize=9, handlelength=1.6, columnspacing=1.2
    )
    for handle in legend.legend_handles:
        handle.set_alpha(1)


def maximizes(history: SearchHistory) -> bool:
    """Whether higher values are better."""
    return direction(history.metric) is Direction.MAXIMIZE


def value_range(values: Sequence[float], *, maximize: bool, fence: float = FENCE) -> tuple[float, float]:
    """Lowest and highest value to show: all but bad outliers, which lie far beyond the quartiles (Tukey's fences)."""
    import numpy as np

    if len(values) < _FEWEST:
        return min(values), max(values)
    first, third = np.quantile(values, [0.25, 0.75])
    reach = fence * (third - first)
    usual = [v for v in values if (v >= first - reach if maximize else v <= third + reach)]
    return min(usual), max(usual)


def outside(values: Sequence[float], limits: tuple[float, float]) -> int:
    """How many values are not shown."""
    return sum(not limits[0] <= value <= limits[1] for value in values)


def padded(limits: tuple[float, float], share: float = 0.06) -> tuple[float, float]:
    """Limits of an axis with some room; around a single value too."""
    low, high = limits
    room = (high - low) * share or abs(high) * share or 1.0
    return low - room, high + room
