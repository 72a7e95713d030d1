"""Detects loss spikes: steps whose loss stands out from those before. It only reports them."""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

WINDOW, LEAST = 50, 20
DEVIATIONS, MULTIPLE = 10.0, 2.0
NORMAL = 1.4826
"""Makes the median absolute deviation of normal numbers their standard deviation."""


@dataclass
class Spikes:
    """The losses of the last steps of this process."""

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def note(self, loss: float) -> float | None:
        """Add a step's loss; the median it stands out from if it does, by both its multiple and the usual spread."""
        usual = None
        if len(self.recent) >= LEAST:
            middle = median(self.recent)
            spread = NORMAL * median(abs(value - middle) for value in self.recent)
            if loss > MULTIPLE * abs(middle) and loss > middle + DEVIATIONS * spread:
                usual = middle
        self.recent.append(loss)
        return usual
