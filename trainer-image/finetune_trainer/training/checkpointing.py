"""Saves and restores a run: model, optimizer, average, random generators and state, on all ranks alike."""

from dataclasses import dataclass

import torch
from torch import nn

from finetune_trainer.checkpoints.snapshot import capture, restore, restore_model
from finetune_trainer.checkpoints.store import CheckpointStore, Loaded
from finetune_trainer.distributed import Ranks
from finetune_trainer.optimization.ema import MovingAverage
from finetune_trainer.training.state import TrainState


@dataclass(frozen=True)
class CheckpointIO:
    """Between a run in memory and its checkpoints on disk; rank 0 alone writes."""

    store: CheckpointStore
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    ranks: Ranks

    def save(self, state: TrainState) -> None:
        """Write a checkpoint; no rank returns before it is whole."""
        best, tensors = (
            state.best.step if state.best else None,
            capture(self.model, self.optimizer, self.ranks),
        )
        if self.average is not None:
            tensors["ema"] = self.average.capture()
        if self.ranks.is_main:
            self.store.save(state.step, tensors, state.to_json(), best)
        self.ranks.broadcast(None)

    def restore(self, before: int | None = None) -> TrainState | None:
        """Restore the newest checkpoint, or the newest before a step, drop the later ones and return its state.

        None if there is none.
        """
        loaded = self._newest(before)
        if loaded is None:
            return None
        if self.ranks.is_main:
            self.store.drop_after(loaded.step)
        restore(loaded.tensors, self.model, self.optimizer, self.ranks)
        self._restore_average(loaded)
        return TrainState.from_json(loaded.state)

    def restore_weights(self, step: int) -> bool:
        """Put the weights of a step into the model, and their average; False if its checkpoint is lost or damaged."""
        if not self.ranks.broadcast(self.ranks.is_main and self.store.has(step)):
            return False
        loaded = self.store.load(step)
        restore_model(loaded.tensors["model"], self.model)
        self._restore_average(loaded)
        return True

    def _restore_average(self, loaded: Loaded) -> None:
        if self.average is not None:
            self.average.restore(loaded.tensors["ema"])

    def _newest(self, before: int | None) -> Loaded | None:
        """As rank 0 found it."""
        loaded = self.store.newest(before) if self.ranks.is_main else None
        step = self.ranks.broadcast(loaded.step if loaded else None)
        return loaded if loaded or step is None else self.store.load(step)
