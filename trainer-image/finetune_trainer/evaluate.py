"""Scores a model on a set of rows. Called by `loop` on the validation rows and by `run` on the test rows."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.control import Stop, halved, is_out_of_memory
from finetune_trainer.data.batching import evaluation_batches
from finetune_trainer.data.collation import collate
from finetune_trainer.data.tokens import Examples
from finetune_trainer.devices import Compute
from finetune_trainer.objectives import Objective

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

    def evaluate(self, examples: Examples, batch_size: int) -> dict[str, float] | None:
        """`loss` and every metric of the objective by plain name; None if a stop was asked for meanwhile.

        The model is left in training mode. No random number is drawn. Memory does not grow with the model's outputs.
        """
        size = batch_size
        while True:
            try:
                return self._evaluate(examples, size)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            size = halved(size, int(examples.lengths.max()))

    def _evaluate(self, examples: Examples, size: int) -> dict[str, float] | None:
        meter, loss_sum, weight = self.objective.meter(), 0.0, 0.0
        self.model.eval()
        try:
            with torch.inference_mode():
                for batch in evaluation_batches(examples.lengths, size):
                    if self.stop.requested:
                        return None
                    inputs, targets = collate(examples, batch, self.pad_id, self.compute.device)
                    logits = self.logits(inputs)
                    loss = self.objective.loss(logits, targets)
                    loss_sum += loss.loss_sum.item()
                    weight += loss.weight.item()
                    meter.update(logits, targets)
        finally:
            self.model.train()
        mean = loss_sum / weight if weight else math.nan
        return {"loss": mean, **meter.scores(mean)}

    def logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Outputs (rows, outputs), per token (rows, longest, outputs), in float32."""
        with self.compute.autocast():
            logits: torch.Tensor = self.model(**inputs).logits
        return logits.float()


def defined(scores: dict[str, float], names: list[str]) -> tuple[dict[str, float], list[str]]:
    """Those of the named scores that are numbers, and the names of those that are not."""
    numbers = {name: scores[name] for name in names if math.isfinite(scores[name])}
    return numbers, [name for name in names if name not in numbers]
