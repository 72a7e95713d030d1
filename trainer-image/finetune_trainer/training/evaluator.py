"""Scores a model on a set of rows."""

import logging
import math
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import torch

from finetune_trainer.data.batching import Indices, evaluation_batches
from finetune_trainer.data.prefetch import prefetched
from finetune_trainer.data.tokens import Examples
from finetune_trainer.distributed import Ranks
from finetune_trainer.objectives import Meter
from finetune_trainer.objectives.base import IGNORED
from finetune_trainer.process.memory import memory_estimate, next_micro_batch_size
from finetune_trainer.process.stop import Stop
from finetune_trainer.training.task import Task

logger = logging.getLogger(__name__)

ROWS_NAMED = 8
EVALUATION_FACTOR = 4
"""Without gradients, this many times more examples fit than in training."""
Outputs = tuple[torch.Tensor, torch.Tensor]
"""With targets."""
Predict = Callable[[Examples, Indices], Outputs]
"""Outputs and targets of some examples, as `Task.predict` gives them."""
Batch = tuple[Indices, bool, Callable[[], Outputs]]
"""This rank's examples, whether they count, and what computes their outputs."""


@dataclass(frozen=True)
class Evaluator:
    """Scores the model of a task, on all ranks together, until a stop is asked for."""

    task: Task
    ranks: Ranks
    stop: Stop

    def evaluate(
        self, examples: Examples, batch_size: int, predict: Predict | None = None
    ) -> dict[str, float] | None:
        """`loss` and every metric of the objective by plain name; None if a stop was asked for meanwhile.

        Rows whose outputs are NaN or infinite are named in the log, and count as wrong; if all are, nothing is defined.
        `predict` may stand in for the task's own. The model is left in training mode. No random number is drawn. Memory
        does not grow with the model's outputs.
        """
        size, model, objective = batch_size, self.task.model, self.task.objective
        while True:
            meter, broken, errors = objective.meter(), list[int](), list[str]()
            loss_sum, weight, full = self._measure(examples, size, meter, broken, errors, predict)
            if self.stop.agreed:
                return None
            if not full:
                break
            reason = self.ranks.first(errors)
            size = next_micro_batch_size(size, int(examples.lengths.max()), memory_estimate(model), reason)
        joined = objective.meter()
        for parts in self.ranks.all_gather(meter.parts()):
            joined.add(parts)
        mean = loss_sum / weight if weight else math.nan
        scores = {"loss": mean, **joined.scores(mean)}
        if self._warn_of(examples, broken) == len(examples):
            # outputs that are no numbers are no answers, not wrong ones
            return dict.fromkeys(scores, math.nan)
        return scores

    def _warn_of(self, examples: Examples, broken: list[int]) -> int:
        """Name the rows whose outputs are not finite; returns how many there are."""
        rows = np.array(
            sorted({row for part in self.ranks.all_gather(broken) for row in part}), dtype=np.int64
        )
        if len(rows):
            logger.warning(
                f"the outputs for {len(rows)} of {len(examples)} rows are NaN or infinite, and count as wrong:"
                f" {name_rows(examples, rows)}"
            )
        return len(rows)

    def _measure(
        self,
        examples: Examples,
        size: int,
        meter: Meter,
        broken: list[int],
        errors: list[str],
        predict: Predict | None,
    ) -> tuple[float, float, bool]:
        """Sum and weight of the losses of all ranks, and whether one of them was out of memory.

        This rank's rows that are not finite are added to `broken`, its out-of-memory errors to `errors`.
        """
        loss_sum, weight, full = 0.0, 0.0, 0.0
        self.task.model.eval()
        try:
            with closing(self._batches(examples, size, predict)) as batches:
                for batch, counts, outputs in batches:
                    own = self._score(
                        batch, outputs, meter if counts and self.ranks.counts else None, broken, errors
                    )
                    *sums, full, stop = self.ranks.all_reduce_sum(*own, self.stop.requested)
                    self.stop.sync(stop, self.ranks.broadcast(self.stop.pruned) if stop else None)
                    if full or stop:
                        break
                    loss_sum, weight = loss_sum + sums[0], weight + sums[1]
        finally:
            self.task.model.train()
        return loss_sum, weight, full > 0

    def _batches(self, examples: Examples, size: int, predict: Predict | None) -> Generator[Batch]:
        """The task's own inputs are built in a thread, ahead of their use."""
        everyones = evaluation_batches(examples.lengths, size * self.ranks.data_size)
        keys = (part for each in everyones for part in self.ranks.shard_batch(each, size))
        if predict is not None:
            for batch, counts in keys:
                yield batch, counts, partial(predict, examples, batch)
            return

        def make(key: tuple[Indices, bool]) -> Batch:
            return *key, partial(self.task.outputs, *self.task.on_host(examples, key[0]))

        with closing(prefetched(make, keys)) as ready:
            yield from ready

    def _score(
        self,
        batch: Indices,
        outputs: Callable[[], Outputs],
        meter: Meter | None,
        broken: list[int],
        errors: list[str],
    ) -> tuple[float, float, bool]:
        """Sum and weight of the losses of a batch, and whether it did not fit into memory.

        Without a meter the batch is computed for the other ranks alone, and does not count.
        """
        try:
            # buffers that a sharded model makes in its first pass are written to in training
            with torch.no_grad() if self.ranks.divided else torch.inference_mode():
                logits, targets = outputs()
                if meter is None:
                    return 0.0, 0.0, False
                loss = self.task.objective.loss(logits, targets)
                meter.update(logits, targets)
                broken.extend(batch[_broken(logits, targets, len(batch))].tolist())
                return loss.loss_sum.item(), loss.weight.item(), False
        except RuntimeError as error:
            errors.append(self.ranks.check_memory(error))
            return 0.0, 0.0, True


def _broken(logits: torch.Tensor, targets: torch.Tensor, rows: int) -> npt.NDArray[np.bool_]:
    """Which rows have outputs that are NaN or infinite; all of them where rows share sequences and one has."""
    bad = ~logits.isfinite().all(dim=-1)
    if bad.ndim > 1:
        bad = (bad & (targets != IGNORED)).any(dim=1)
    found: npt.NDArray[np.bool_] = bad.cpu().numpy()
    return found if len(found) == rows else np.full(rows, found.any())


def name_rows(examples: Examples, rows: Indices) -> str:
    """Rows as the user knows them: the files' names and the numbers of the first rows."""
    ordered = sorted(rows.tolist(), key=lambda row: int(examples.lines[row]))
    more = f" and {len(ordered) - ROWS_NAMED} more" if len(ordered) > ROWS_NAMED else ""
    by_file = groupby(map(examples.place, ordered[:ROWS_NAMED]), key=itemgetter(0))
    return (
        "; ".join(f"{file} row {', '.join(str(row) for _, row in found)}" for file, found in by_file) + more
    )


def defined(scores: dict[str, float], names: list[str]) -> tuple[dict[str, float], list[str]]:
    """Those of the named scores that are numbers, and the names of those that are not."""
    numbers = {name: scores[name] for name in names if math.isfinite(scores[name])}
    return numbers, [name for name in names if name not in numbers]
