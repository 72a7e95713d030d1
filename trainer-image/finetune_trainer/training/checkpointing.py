"""Saves and restores a run: model, optimizer, average, random generators and state, on all ranks alike."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import nn

from finetune_trainer.checkpoints.parts import Tensors, on_cpu, part_of, read_parts, write_part
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
class Pending:
    """A checkpoint that is being written."""

    step: int
    written: Future[dict[str, str]]
    """The digests of this rank's parts."""
    finish: Callable[[dict[str, str]], None] | None
    """What rank 0 does with those of all ranks."""


@dataclass
class CheckpointIO:
    """Between a run in memory and its checkpoints on disk. Rank 0 alone writes; of a sharded model each its part.

    In the `background`, a thread writes a copy in the memory of the CPU, and training goes on meanwhile.
    """

    store: CheckpointStore
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    ranks: Ranks
    background: bool = False
    _pending: Pending | None = None
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "checkpoint"))

    def save(self, state: TrainState) -> None:
        """Begin to write a checkpoint, which is whole when `settle` has returned."""
        self.settle()
        begun = self.ranks.broadcast(self.store.begin(state.step) if self.ranks.is_main else None)
        if begun is None:  # it is there, as an earlier attempt wrote it
            self._pending = Pending(state.step, _done({}), None)
            return
        tensors = capture(self.model, self.optimizer, self.ranks)
        if self.average is not None:
            tensors["ema"] = self.average.capture()
        random = tensors.pop("random")
        sharded = tensors if self.ranks.divided else {}
        parts = {name: part_of(part, self.ranks, copied=self.background) for name, part in sharded.items()}
        rest = {} if self.ranks.divided or not self.ranks.is_main else self._copied(tensors)
        step, written, best = state.step, state.to_json(), state.best.step if state.best else None

        def write() -> dict[str, str]:
            with storage_errors(f"the checkpoint of step {step}", begun):
                found = dict(write_part(begun / name, part, self.ranks) for name, part in parts.items())
            if self.ranks.is_main and not self.ranks.divided:
                self.store.finish(step, rest | {"random": random}, written, best)
            return found

        def finish(digests: dict[str, str]) -> None:
            self.store.finish(step, {"random": random}, written, best, digests)

        last = finish if self.ranks.divided and self.ranks.is_main else None
        self._pending = Pending(step, self._start(write), last)

    @property
    def written(self) -> bool:
        """Whether this rank has written its part of a checkpoint that is not settled yet."""
        return self._pending is not None and self._pending.written.done()

    def settle(self) -> int | None:
        """Wait for a checkpoint that is being written; its step, None if there is none. All ranks together."""
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        own = pending.written.result()
        parts = {name: digest for each in self.ranks.all_gather(own) for name, digest in each.items()}
        if pending.finish is not None:
            pending.finish(parts)
        self.ranks.broadcast(None)
        return pending.step

    def _copied(self, tensors: dict[str, Tensors]) -> dict[str, Tensors]:
        return {
            file: {name: on_cpu(tensor, copied=self.background) for name, tensor in part.items()}
            for file, part in tensors.items()
        }

    def _start(self, write: Callable[[], dict[str, str]]) -> Future[dict[str, str]]:
        """In the thread, or at once."""
        if self.background:
            return self._writer.submit(write)
        return _done(write())

    def restore(self, before: int | None = None) -> TrainState | None:
        """Restore the newest checkpoint, or the newest before a step, drop the later ones and return its state.

        None if there is none.
        """
        self.settle()
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
        self.settle()
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


def _done(written: dict[str, str]) -> Future[dict[str, str]]:
    future: Future[dict[str, str]] = Future()
    future.set_result(written)
    return future
