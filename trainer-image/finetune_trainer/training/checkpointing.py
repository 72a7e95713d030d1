"""Saves and restores a run: model, optimizer, average, random generators and state, on all ranks alike."""

from dataclasses import dataclass

import torch
from torch import nn

from finetune_trainer.checkpoints.parts import Tensors, read_parts, write_part
from finetune_trainer.checkpoints.snapshot import (
    capture,
    empty_states,
    model_tensors,
    restore,
    restore_model,
)
from finetune_trainer.checkpoints.store import CheckpointStore, Loaded
from finetune_trainer.distributed import Ranks
from finetune_trainer.errors import storage_errors
from finetune_trainer.optimization.ema import MovingAverage
from finetune_trainer.training.state import TrainState


@dataclass(frozen=True)
class CheckpointIO:
    """Between a run in memory and its checkpoints on disk. Rank 0 alone writes; of a sharded model each its part."""

    store: CheckpointStore
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    ranks: Ranks

    def save(self, state: TrainState) -> None:
        """Write a checkpoint; no rank returns before it is whole."""
        tensors = capture(self.model, self.optimizer, self.ranks)
        if self.average is not None:
            tensors["ema"] = self.average.capture()
        best = state.best.step if state.best else None
        if self.ranks.sharded:
            self._save_parts(tensors, state, best)
        elif self.ranks.is_main:
            self.store.save(state.step, tensors, state.to_json(), best)
        self.ranks.broadcast(None)

    def _save_parts(self, tensors: dict[str, Tensors], state: TrainState, best: int | None) -> None:
        """Each rank writes what it has, and rank 0 the rest when all have."""
        folder = self.ranks.broadcast(self.store.begin(state.step) if self.ranks.is_main else None)
        if folder is None:
            return
        random = {"random": tensors.pop("random")}
        with storage_errors(f"the checkpoint of step {state.step}", folder):
            written = dict(write_part(folder / name, part, self.ranks) for name, part in tensors.items())
        parts = {name: digest for each in self.ranks.all_gather(written) for name, digest in each.items()}
        if self.ranks.is_main:
            self.store.finish(state.step, random, state.to_json(), best, parts)

    def restore(self, before: int | None = None) -> TrainState | None:
        """Restore the newest checkpoint, or the newest before a step, drop the later ones and return its state.

        None if there is none.
        """
        loaded = self._newest(before)
        if loaded is None:
            return None
        if self.ranks.is_main:
            self.store.drop_after(loaded.step)
        files = self._weights(loaded)
        if "optimizer" in loaded.parts:
            files["optimizer"] = empty_states(loaded.parts["optimizer"], self.model)
            read_parts(loaded.parts["optimizer"], files["optimizer"])
        restore(files, self.model, self.optimizer, self.ranks)
        self._restore_average(files)
        return TrainState.from_json(loaded.state)

    def restore_weights(self, step: int) -> bool:
        """Put the weights of a step into the model, and their average; False if its checkpoint is lost or damaged."""
        if not self.ranks.broadcast(self.ranks.is_main and self.store.has(step)):
            return False
        loaded = self.store.load(step)
        files = self._weights(loaded)
        restore_model(files["model"], self.model)
        self._restore_average(files)
        return True

    def _restore_average(self, files: dict[str, Tensors]) -> None:
        if self.average is not None:
            self.average.restore(files["ema"])

    def _weights(self, loaded: Loaded) -> dict[str, Tensors]:
        """Its tensors by file; parts are read into the model and the average themselves."""
        into = {"model": model_tensors(self.model)} if "model" in loaded.parts else {}
        if "ema" in loaded.parts and self.average is not None:
            into["ema"] = self.average.capture()
        for name, tensors in into.items():
            read_parts(loaded.parts[name], tensors)
        return loaded.tensors | into

    def _newest(self, before: int | None) -> Loaded | None:
        """As rank 0 found it."""
        loaded = self.store.newest(before) if self.ranks.is_main else None
        step = self.ranks.broadcast(loaded.step if loaded else None)
        return loaded if loaded or step is None else self.store.load(step)
