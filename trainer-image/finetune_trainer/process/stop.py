"""What may end or change a run from outside its plan: signals, the operator's answer, a device that is full."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from finetune_trainer.errors import PrunedError, StoppedError


@dataclass
class Stop:
    """Set by SIGTERM, the first Ctrl-C or the operator that prunes a trial.

    The other ranks learn of it at every step and every batch of an evaluation.
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

    def sync(self, asked: float, pruned: str | None) -> None:
        """Take the ranks' common view: how many were asked to stop, and why rank 0 prunes."""
        self.agreed = asked > 0
        if self.agreed:
            self.pruned = pruned

    def to_error(self, when: str) -> PrunedError | StoppedError:
        """The end that was asked for, outside of training; `when` goes on with the sentence of a signal."""
        if self.pruned is not None:
            return PrunedError(f"pruned: {self.pruned}")
        return StoppedError(f"stopped by {self.signal_name}{when}")

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.requested, self.signal_name = True, signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within it a signal ends this process at once: where it waits for others, Python's handlers do not run."""
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
