"""Detects loss spikes: steps whose loss stands out from those before. It only reports them."""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

WINDOW, LEAST = 50, 20
DEVIATIONS, MULTIPLE = 10.0, 2.0
FLOOR = 0.05
"""Share of the loss that training began with. Below it a loss that doubles is noise: 0.0077 after 0.0018."""
NORMAL = 1.4826
"""Makes the median absolute deviation of normal numbers their standard deviation."""


@dataclass
class Spikes:
    """The losses of the last steps of this process."""

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    start: float = 0.0
    """The usual loss when this process began."""

    def note(self, loss: float, start: float | None = None) -> float | None:
        """Add a step's loss; the median of the last ones if it stands out from them, else None.

        It stands out by its multiple, by the usual spread, and beside the loss at the start of training: `start`, where
        an earlier process began, or what this one began with.
        """
        usual = None
        if len(self.recent) >= LEAST:
            middle = median(self.recent)
            self.start = self.start or middle
            spread = NORMAL * median(abs(value - middle) for value in self.recent)
            floor = FLOOR * max(self.start, start or 0.0)
            if loss > max(MULTIPLE * abs(middle), middle + DEVIATIONS * spread, floor):
                usual = middle
        self.recent.append(loss)
        return usual
