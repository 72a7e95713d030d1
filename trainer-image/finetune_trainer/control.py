"""What may end or change a run from outside its plan: signals, numbers that are not finite, a device that is full.

Called by `loop`.
"""

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from finetune_trainer.errors import DeviceMemoryError, DivergedError

ROWS_NAMED = 8


@dataclass
class Stop:
    """Set by SIGTERM or the first Ctrl-C; told to the other ranks at every step and every batch of an evaluation."""

    requested: bool = False
    agreed: bool = False
    """All ranks know that one of them was asked to: they stop at the same step."""
    signal_name: str = "SIGTERM"

    def listen(self) -> None:
        """Install the handlers; a second Ctrl-C ends at once."""
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.requested, self.signal_name = True, signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)


def check_finite(step: int, loss: float, grad_norm: float, rows: Callable[[], list[str]]) -> None:
    """Raise DivergedError, before the optimizer steps, if the loss or the gradient is not finite.

    `rows` finds the culprits among the batch: it is called only then.
    """
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {grad_norm}"
    named = rows()
    more = f" and {len(named) - ROWS_NAMED} more" if len(named) > ROWS_NAMED else ""
    raise DivergedError(
        f"diverged at step {step}: {what} on {', '.join(named[:ROWS_NAMED])}{more}; no weights were changed by it."
        " Try a smaller training.optimizer.learningRate, a longer warmup or precision: Float32, and look at these rows"
    )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get memory, on a GPU or on the CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def halved(size: int, longest: int) -> int:
    """The next smaller micro-batch; raises DeviceMemoryError when one example does not fit."""
    if size <= 1:
        raise DeviceMemoryError(
            f"out of device memory with one example of {longest} tokens; lower dataset.preprocessing.maxLength, freeze"
            " more of the model, or ask for a larger device"
        )
    return size // 2
