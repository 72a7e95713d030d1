"""What may end or change a run from outside its plan: signals, the operator's answer, a device that is full.

Called by `loop` and `evaluate`.
"""

import signal
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from finetune_trainer.errors import DeviceMemoryError, PrunedError, StoppedError

if TYPE_CHECKING:
    from finetune_trainer.distributed import Ranks


@dataclass
class Stop:
    """Set by SIGTERM, the first Ctrl-C or the operator that prunes a trial.

    Told to the other ranks at every step and every batch of an evaluation.
    """

    requested: bool = False
    agreed: bool = False
    """All ranks know that one of them was asked to: they stop at the same step."""
    signal_name: str = "SIGTERM"
    pruned: str | None = None
    """Why the operator prunes this trial; None for a stop that saves a checkpoint."""

    def listen(self) -> None:
        """Install the handlers; a second Ctrl-C ends at once."""
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def prune(self, reason: str) -> None:
        """The operator's answer; it comes in another thread, and to rank 0 alone. An earlier request goes first."""
        if not self.requested:
            self.pruned, self.requested = reason, True

    def agree(self, asked: float, ranks: "Ranks") -> None:
        """Take up how many ranks were asked to stop; of what kind it is, rank 0 knows."""
        self.agreed = asked > 0
        if self.agreed:
            self.pruned = ranks.decided(self.pruned)

    def error(self, when: str) -> PrunedError | StoppedError:
        """The end that was asked for, outside of training; `when` goes on with the sentence of a signal."""
        if self.pruned is not None:
            return PrunedError(f"pruned: {self.pruned}")
        return StoppedError(f"stopped by {self.signal_name}{when}")

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.requested, self.signal_name = True, signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)


NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch's allocator on the CPU, the driver of a GPU and cuBLAS say, which raise plain RuntimeErrors."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get memory, on a GPU or on the CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_MEMORY)


def halved(size: int, longest: int, needed: str) -> int:
    """The next smaller micro-batch; raises DeviceMemoryError, with what is `needed`, when one example does not fit."""
    if size <= 1:
        raise DeviceMemoryError(
            f"out of device memory with one example of {longest} tokens: {needed}; lower"
            " dataset.preprocessing.maxLength, freeze more of the model, or ask for a larger device"
        )
    return size // 2
