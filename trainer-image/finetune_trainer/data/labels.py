"""The labels of many rows in little memory: eight bytes for a label."""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.objectives.base import Label


class Labels(Sequence[Label]):
    """Names are kept once, and as their number for each row; of a list of labels the end is kept too."""

    def __init__(self) -> None:
        self._values, self._ends = array("d"), array("q")
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []

    def append(self, label: Label) -> None:
        """One row's label; all rows have the same kind."""
        if isinstance(label, tuple):
            self._values.extend(map(self._number, label))
            self._ends.append(len(self._values))
        else:
            self._values.append(self._number(label))

    def _number(self, value: str | float | None) -> float:
        if isinstance(value, str):
            if value not in self._numbers:
                self._numbers[value] = len(self._names)
                self._names.append(value)
            return self._numbers[value]
        return float("nan") if value is None else value

    def __len__(self) -> int:
        return len(self._ends) or len(self._values)

    def __getitem__(self, index: Any) -> Any:
        """The label of a row."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        if not self._ends:
            return self._value(self._values[index])
        row = index % len(self)
        start = self._ends[row - 1] if row else 0
        return tuple(map(self._value, self._values[start : self._ends[row]]))

    def _value(self, value: float) -> str | float:
        return self._names[int(value)] if self._names else value

    def take(self, rows: Iterable[int]) -> "Labels":
        """The labels of some rows."""
        taken = Labels()
        for row in rows:
            taken.append(self[row])
        return taken

    @property
    def names(self) -> list[str]:
        """Those of the rows, sorted; none where labels are numbers."""
        return sorted(self._names)

    def counts(self) -> dict[str, int]:
        """How often each name occurs; empty where labels are numbers."""
        if not self._names:
            return {}
        numbers = np.frombuffer(self._values).astype(np.int64)
        return dict(zip(self._names, np.bincount(numbers, minlength=len(self._names)).tolist(), strict=True))

    def strata(self) -> npt.NDArray[np.int64] | None:
        """The place of each row's label among the sorted names; None where rows have several or numbers."""
        if self._ends or not self._names:
            return None
        places = np.empty(len(self._names), dtype=np.int64)
        places[sorted(range(len(places)), key=self._names.__getitem__)] = np.arange(len(places))
        return places[np.frombuffer(self._values).astype(np.int64)]
