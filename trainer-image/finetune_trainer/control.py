"""What may end or change a run from outside its plan: signals, a device that is full.

Called by `loop` and `evaluate`.
"""

import signal
from dataclasses import dataclass
from types import FrameType

from finetune_trainer.errors import DeviceMemoryError


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
