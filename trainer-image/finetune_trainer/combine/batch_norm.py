"""Statistics of batch normalisation for weights that were averaged: those of the members do not fit them.

As torch.optim.swa_utils.update_bn (Izmailov et al. 2018), but each layer is given what it gets in prediction: without
dropout, and after the earlier layers have their new statistics. So they do not depend on how rows are batched.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.data.batching import evaluation_batches
from finetune_trainer.data.tokens import Examples
from finetune_trainer.layers.batch_norm import norms_of
from finetune_trainer.process.memory import memory_errors
from finetune_trainer.training.task import Task

logger = logging.getLogger(__name__)


def estimate_statistics(task: Task, examples: Examples, batch_size: int, check: Callable[[], None]) -> None:
    """Give every layer the mean and the unbiased variance of its inputs over all rows: a pass over them for each layer.

    `check` is called before every batch.
    """
    task.model.eval()
    with memory_errors(task.model):
        layers = _in_order(task, examples)
        for layer in layers:
            moments = Moments()
            hook = layer.register_forward_pre_hook(moments.take)
            try:
                for batch in evaluation_batches(examples.lengths, batch_size):
                    check()
                    with torch.inference_mode():
                        task.predict(examples, batch)
            finally:
                hook.remove()
            layer.running_mean.copy_(moments.mean)
            layer.running_var.copy_(moments.variance)
    logger.info(
        f"the statistics of {len(layers)} batch-norm layers were estimated on {len(examples)} training rows"
    )


def _in_order(task: Task, examples: Examples) -> list[Any]:
    """The layers as one row passes them."""
    found: dict[nn.Module, None] = {}
    hooks = [
        norm.register_forward_pre_hook(lambda layer, _: found.setdefault(layer))
        for norm in norms_of(task.model)
    ]
    with torch.inference_mode():
        task.predict(examples, evaluation_batches(examples.lengths, 1)[0])
    for hook in hooks:
        hook.remove()
    return list(found)


class Moments:
    """Mean and variance by channel in float64, batch by batch (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, torch.zeros(1), torch.zeros(1)

    def take(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """The input of a layer (rows, channels, …)."""
        del layer
        values = inputs[0].detach().movedim(1, -1).flatten(0, -2).double()
        count, mean = len(values), values.mean(0)
        squares, total = ((values - mean) ** 2).sum(0), self.count + count
        change = mean - self.mean.to(mean)
        self.mean = self.mean.to(mean) + change * count / total
        self._squares = self._squares.to(mean) + squares + change**2 * self.count * count / total
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Without bias."""
        return self._squares / max(self.count - 1, 1)
