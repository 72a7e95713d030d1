"""The grid that `search_table` trains and `search_replay` searches, and what the table says of it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

Values = dict[str, Any]

TABLE = Path(__file__).with_name("search_table.jsonl")
EPOCHS = 9
SEEDS = (1, 2, 3)
"""Values of training.seed."""
RATE = "training.optimizer.learningRate"
GRID: dict[str, list[Any]] = {
    RATE: [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
    "training.batchSize": [16, 64],
    "model.dropout": [0.0, 0.3],
    "model.freeze.layers": [0, 1],
}
"""Values of fields of a FineTuneJob: 48 configurations."""


@dataclass(frozen=True)
class Curve:
    """A run: loss and accuracy on the validation rows after each epoch, and CPU seconds since its start."""

    values: Values
    seed: int
    loss: list[float]
    accuracy: list[float]
    seconds: list[float]

    def to_line(self) -> str:
        """A line of the table."""
        return json.dumps(asdict(self)) + "\n"


class Table:
    """All runs, by configuration and seed."""

    def __init__(self, curves: list[Curve]) -> None:
        self._curves = {key_of(curve.values, curve.seed): curve for curve in curves}

    def __contains__(self, run: tuple[Values, int]) -> bool:
        return key_of(*run) in self._curves

    def curve(self, values: Values, seed: int) -> Curve:
        """The run of this configuration with this seed. Raises KeyError where the table lacks it."""
        return self._curves[key_of(values, seed)]

    def mean(self, values: Values) -> float:
        """Accuracy after the last epoch, mean over the seeds."""
        return fmean(self.curve(values, seed).accuracy[-1] for seed in SEEDS)

    def whole_run(self) -> float:
        """Mean CPU seconds of a run that trains to its end."""
        return fmean(curve.seconds[-1] for curve in self._curves.values())

    def best_mean(self) -> float:
        """The best mean of all configurations."""
        return max(self.mean(curve.values) for curve in self._curves.values())


def key_of(values: Values, seed: int) -> tuple[Any, ...]:
    """What names a run."""
    return (*(values[path] for path in GRID), seed)


def read_table(path: Path = TABLE) -> Table:
    """The table in a file; empty if there is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    return Table([Curve(**json.loads(line)) for line in lines])
