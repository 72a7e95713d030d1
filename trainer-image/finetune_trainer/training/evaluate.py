"""Scores a model on a set of rows."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from finetune_trainer.data.batching import Indices, evaluation_batches
from finetune_trainer.data.collation import collate
from finetune_trainer.data.tokens import Examples
from finetune_trainer.distributed import Ranks
from finetune_trainer.objectives import Meter, Objective
from finetune_trainer.process.devices import Compute
from finetune_trainer.process.memory import memory_estimate, next_micro_batch_size
from finetune_trainer.process.stop import Stop

EVALUATION_FACTOR = 4
"""Without gradients, so many times more examples fit than in training."""


@dataclass(frozen=True)
class Judge:
    """How a model is scored."""

    model: Any
    objective: Objective[Any]
    compute: Compute
    pad_id: int
    stop: Stop
    ranks: Ranks = field(default_factory=Ranks)

    def evaluate(self, examples: Examples, batch_size: int) -> dict[str, float] | None:
        """`loss` and every metric of the objective by plain name; None if a stop was asked for meanwhile.

        The model is left in training mode. No random number is drawn. Memory does not grow with the model's outputs.
        """
        size = batch_size
        while True:
            meter = self.objective.meter()
            loss_sum, weight, full = self._measure(examples, size, meter)
            if self.stop.agreed:
                return None
            if not full:
                break
            size = next_micro_batch_size(size, int(examples.lengths.max()), memory_estimate(self.model))
        joined = self.objective.meter()
        for parts in self.ranks.all_gather(meter.parts()):
            joined.add(parts)
        mean = loss_sum / weight if weight else math.nan
        return {"loss": mean, **joined.scores(mean)}

    def _measure(self, examples: Examples, size: int, meter: Meter) -> tuple[float, float, bool]:
        """Sum and weight of the losses of all ranks, and whether one of them was out of memory."""
        loss_sum, weight, full = 0.0, 0.0, 0.0
        self.model.eval()
        try:
            for everyones in evaluation_batches(examples.lengths, size * self.ranks.world_size):
                ((batch, counts),) = self.ranks.shard_batch(everyones, size)
                own = self._score(examples, batch, meter, counts=counts)
                *sums, full, stop = self.ranks.all_reduce_sum(*own, self.stop.requested)
                self.stop.agree(stop, self.ranks.broadcast(self.stop.pruned) if stop else None)
                if full or stop:
                    break
                loss_sum, weight = loss_sum + sums[0], weight + sums[1]
        finally:
            self.model.train()
        return loss_sum, weight, full > 0

    def _score(
        self, examples: Examples, batch: Indices, meter: Meter, *, counts: bool
    ) -> tuple[float, float, bool]:
        """Sum and weight of the losses of a batch, and whether it did not fit into memory."""
        try:
            # buffers that a divided model makes in its first pass are written to in training
            with torch.no_grad() if self.ranks.sharded else torch.inference_mode():
                logits, targets = self.predict(examples, batch)
                if not counts:
                    return 0.0, 0.0, False
                loss = self.objective.loss(logits, targets)
                meter.update(logits, targets)
                return loss.loss_sum.item(), loss.weight.item(), False
        except RuntimeError as error:
            self.ranks.check_memory(error)
            return 0.0, 0.0, True

    def predict(self, examples: Examples, batch: Indices) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and targets of some examples."""
        inputs, targets = collate(examples, batch, self.pad_id, self.compute.device)
        return self.logits(inputs), targets

    def logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Outputs (rows, outputs), per token (rows, longest, outputs), in float32."""
        with self.compute.autocast():
            logits: torch.Tensor = self.model(**inputs).logits
        return logits.float()


def defined(scores: dict[str, float], names: list[str]) -> tuple[dict[str, float], list[str]]:
    """Those of the named scores that are numbers, and the names of those that are not."""
    numbers = {name: scores[name] for name in names if math.isfinite(scores[name])}
    return numbers, [name for name in names if name not in numbers]
