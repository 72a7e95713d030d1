"""The plots of a search, in the order of the report. A new plot is a file here and a line in `plots`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from finetune_api.search_history import SearchHistory
from finetune_api.status import CombinationStatus
from finetune_trainer.summary.plots import history as trials
from finetune_trainer.summary.plots import importances, learning_curves, parallel


@dataclass(frozen=True)
class Plot:
    """A plot. `draw` makes a figure of matplotlib, unless `absent` says why there is nothing to draw."""

    name: str
    title: str
    explanation: str
    draw: Callable[[SearchHistory], Any]
    absent: Callable[[SearchHistory], str]


def plots(combination: CombinationStatus | None = None) -> tuple[Plot, ...]:
    """All of them; `combination` is what the best trials became, if the search ended in an ensemble."""
    return (
        Plot(
            "history",
            "History",
            trials.EXPLANATION,
            partial(trials.draw, combination=combination),
            trials.absent,
        ),
        Plot("parallel", "Parallel coordinates", parallel.EXPLANATION, parallel.draw, parallel.absent),
        Plot("importances", "Importances", importances.EXPLANATION, importances.draw, importances.absent),
        Plot(
            "learning-curves",
            "Learning curves",
            learning_curves.EXPLANATION,
            learning_curves.draw,
            learning_curves.absent,
        ),
    )
