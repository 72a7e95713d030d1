"""Importances: how much every searched field mattered, as bars."""

from typing import Any

from finetune_api.search_history import SearchHistory
from finetune_api.status import TrialState
from finetune_trainer.summary.plots.figure import COLOURS, new_figure
from finetune_trainer.summary.values import clipped

EXPLANATION = "Share of each searched field in what sets the best tenth of the trials apart (PED-ANOVA)."


def absent(history: SearchHistory) -> str:
    """Why there is nothing to draw."""
    return (
        "" if history.importances else "importances need at least 10 successful trials with different values"
    )


def draw(history: SearchHistory) -> Any:
    """The figure."""
    ranked = sorted(history.importances.items(), key=lambda item: (item[1], item[0]))
    figure = new_figure(9, 0.9 + 0.36 * len(ranked))
    axis = figure.subplots()
    shares = [100 * share for _, share in ranked]
    bars = axis.barh(
        [clipped(path, 60) for path, _ in ranked], shares, color=COLOURS[TrialState.SUCCEEDED], height=0.62
    )
    axis.bar_label(bars, [f"{share:.0f} %" for share in shares], padding=4, fontsize=9)
    axis.set_xlim(0, max(*shares, 1) * 1.12)
    axis.set_xlabel("importance in percent")
    axis.grid(axis="x", alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
