"""A run while it trains: its parts, and what its plan asks for at a step."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock

import torch

from finetune_api.model import FreezeSpec
from finetune_api.training import CheckpointInterval, EvaluationInterval, TrainingSpec
from finetune_trainer.data.batching import Batches, Indices, epoch_batches, steps_per_epoch
from finetune_trainer.data.tokens import Examples
from finetune_trainer.distributed import Ranks
from finetune_trainer.layers.batch_norm import norms_of
from finetune_trainer.objectives.base import Inputs
from finetune_trainer.optimization.clipping import Norms
from finetune_trainer.optimization.ema import MovingAverage
from finetune_trainer.optimization.spikes import Spikes
from finetune_trainer.process.heartbeat import Heartbeat
from finetune_trainer.process.stop import Stop
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.training.checkpointing import CheckpointIO
from finetune_trainer.training.debug import Debug
from finetune_trainer.training.evaluator import Evaluator, name_rows
from finetune_trainer.training.feed import Feed, MicroBatch, Place
from finetune_trainer.training.state import TrainState
from finetune_trainer.training.task import Task


@dataclass
class Run:
    """Everything that training needs; what changes is in TrainState."""

    task: Task
    evaluator: Evaluator
    ranks: Ranks
    stop: Stop
    optimizer: torch.optim.Optimizer
    training: TrainingSpec
    train: Examples
    validation: Examples
    checkpoints: CheckpointIO
    recorder: Recorder
    average: MovingAverage | None = None
    """Of the trained weights, with training.ema."""
    freeze: FreezeSpec | None = None
    """What of the model is frozen, and until when."""
    debug: Debug | None = None
    spikes: Spikes = field(default_factory=Spikes)
    heartbeat: Heartbeat = field(default_factory=Heartbeat.current)
    saved_at: float = field(default_factory=time.monotonic)
    logged_at: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    """Seconds that the step being taken has waited for batches."""
    checkpoint_timer_due: bool = False
    """By rank 0's clock a checkpoint is due."""
    checkpoint_written: bool = False
    """All ranks have written their part of a checkpoint."""
    ahead: float = 0.0
    """The mean of the objective's `look_ahead` over the step being taken."""
    _epochs: dict[int, Batches] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def collate(self, rows: Indices) -> tuple[Inputs, torch.Tensor]:
        """Inputs and targets of some training rows of the step being taken."""
        return self._with_ahead(*self.task.collate(self.train, rows))

    def micro_batches(self, step: int, size: int, number: int = 0) -> Iterator[MicroBatch]:
        """Those of this rank in a pass over a step, on the device; adds the time until each is there to `waited`."""
        ready = self.feed.micro_batches(Place(step, size, number))
        while True:
            began = time.perf_counter()
            micro = next(ready, None)
            if micro is None:
                return
            inputs, targets = self._with_ahead(*self.task.on_device(micro.inputs, micro.targets))
            self.waited += time.perf_counter() - began
            yield micro._replace(inputs=inputs, targets=targets)

    @cached_property
    def feed(self) -> Feed:
        """Builds the micro-batches of training in a thread."""

        def rows_of(step: int, size: int) -> list[tuple[Indices, bool]]:
            return self.ranks.shard_batch(self.batch(step), size)

        def make(rows: Indices) -> tuple[Inputs, torch.Tensor]:
            try:
                return self.task.on_host(self.train, rows)
            except Exception as error:
                error.add_note(f"while a batch was built of {rows_named(self, rows)}")
                raise

        return Feed(rows_of, make, self.total_steps, passes=1 + self.task.objective.looks_ahead)

    def _with_ahead(self, inputs: Inputs, targets: torch.Tensor) -> tuple[Inputs, torch.Tensor]:
        if self.task.objective.looks_ahead:
            inputs["ahead"] = torch.tensor(self.ahead, device=targets.device)
        return inputs, targets

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the training rows."""
        return steps_per_epoch(len(self.train), self.training.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps planned."""
        return self.training.max_steps or (self.training.epochs or 1) * self.steps_per_epoch

    @cached_property
    def norms(self) -> list[torch.nn.Module]:
        """Layers with running statistics, which every forward pass in training changes."""
        return norms_of(self.task.model)

    @property
    def stopping(self) -> bool:
        """Whether training ends before the next step; other ranks have to know first."""
        return self.stop.agreed or (self.ranks.world_size == 1 and self.stop.requested)

    def exchange(self, *numbers: float) -> list[float]:
        """The numbers summed over all ranks; what a signal or the clock asks for is agreed upon along the way."""
        own = self.stop.requested, _timer_due(self), self.checkpoints.written
        *totals, stop, save, written = self.ranks.all_reduce_sum(*numbers, *own)
        self.stop.sync(stop, self.ranks.broadcast(self.stop.pruned) if stop else None)
        self.checkpoint_timer_due = save > 0
        self.checkpoint_written = written == self.ranks.world_size
        return totals

    def batch(self, step: int) -> Indices:
        """The examples of an optimizer step: a function of the step alone, in any thread."""
        if self.training.debug and self.training.debug.overfit_one_batch:
            step = 0
        epoch, position = divmod(step, self.steps_per_epoch)
        with self._lock:
            if epoch not in self._epochs:
                spec = self.training
                # the feed may be one epoch ahead
                self._epochs = {known: kept for known, kept in self._epochs.items() if known == epoch - 1}
                self._epochs[epoch] = epoch_batches(self.train.lengths, spec.batch_size, spec.seed, epoch)
            return self._epochs[epoch][position]


def rows_named(run: Run, rows: Indices) -> str:
    """Training examples as the user knows them: the file's name and the numbers of the first of the rows."""
    return name_rows(run.train, rows)


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did."""

    loss: float
    norms: Norms
    """Of its gradient."""
    learning_rate: float
    examples: int
    tokens: int
    seconds: float
    waited: float
    """Of these, seconds that this rank waited for batches."""


def evaluation_due(run: Run, state: TrainState) -> bool:
    """Whether this step is to be evaluated and was not yet."""
    if state.step == 0 or state.evaluated_step == state.step or run.stopping:
        return False
    return state.step >= run.total_steps or _every(run, run.training.evaluation.every, state.step)


def checkpoint_due(run: Run, state: TrainState) -> bool:
    """Whether the plan asks for a checkpoint at this step."""
    every = run.training.checkpoint.every
    if every is not None and every.minutes:
        return run.checkpoint_timer_due
    return state.step > 0 and _every(run, every, state.step)


def _timer_due(run: Run) -> bool:
    every = run.training.checkpoint.every
    minutes = every.minutes if every else None
    return bool(minutes) and run.ranks.is_main and time.monotonic() - run.saved_at >= 60 * (minutes or 0)


def _every(run: Run, interval: EvaluationInterval | CheckpointInterval | None, step: int) -> bool:
    if interval is None:
        return False
    steps = interval.steps or (interval.epochs or 1) * run.steps_per_epoch
    return step % steps == 0


def is_finished(run: Run, state: TrainState) -> bool:
    """Whether all steps are done, or early stopping ends training."""
    return state.step >= run.total_steps or state.patience.exhausted(run.training.early_stopping)
