"""Statistics of batch normalisation for weights that were averaged: those of the members do not fit them.

As torch.optim.swa_utils.update_bn (Izmailov et al. 2018), but each layer is given what it gets in prediction: without
dropout, and after the earlier layers have their new statistics. So they do not depend on how rows are batched.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.data.batching import evaluation_batches
from finetune_trainer.data.tokens import Examples
from finetune_trainer.layers.batch_norm import norms_of
from finetune_trainer.process.memory import (
    error_line,
    is_out_of_memory,
    memory_estimate,
    next_micro_batch_size,
)
from finetune_trainer.training.task import Task

logger = logging.getLogger(__name__)


def estimate_statistics(task: Task, examples: Examples, batch_size: int, check: Callable[[], None]) -> None:
    """Give every layer the mean and the unbiased variance of its inputs over all rows: a pass over them for each layer.

    `check` is called before every batch; batches become smaller where they do not fit. Raises DeviceMemoryError.
    """
    task.model.eval()
    layers = _in_order(task, examples)
    for layer in layers:
        moments = None
        while moments is None:
            try:
                moments = _measure(layer, task, examples, batch_size, check)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                longest, need = int(examples.lengths.max()), memory_estimate(task.model)
                batch_size = next_micro_batch_size(batch_size, longest, need, error_line(error))
        layer.running_mean.copy_(moments.mean)
        layer.running_var.copy_(moments.variance)
    if layers:
        logger.info(
            f"estimated the statistics of {len(layers)} batch-norm layers anew on {len(examples)} training rows"
        )


def _measure(layer: Any, task: Task, examples: Examples, size: int, check: Callable[[], None]) -> "Moments":
    """Of what the layer gets in prediction."""
    moments = Moments()
    with _hooked([layer], moments.take), torch.inference_mode():
        for batch in evaluation_batches(examples.lengths, size):
            check()
            task.predict(examples, batch)
    return moments


def _in_order(task: Task, examples: Examples) -> list[Any]:
    """The layers with running statistics as a row passes them, asked of the shortest."""
    found: dict[nn.Module, None] = {}
    norms = [norm for norm in norms_of(task.model) if norm.running_mean is not None]
    with _hooked(norms, lambda layer, _: found.setdefault(layer)), torch.inference_mode():
        task.predict(examples, evaluation_batches(examples.lengths, 1)[len(examples) - 1])
    return list(found)


@contextmanager
def _hooked(layers: list[Any], hook: Callable[[Any, tuple[Tensor, ...]], None]) -> Iterator[None]:
    """Within it, the hook is called with a layer and its inputs before each pass."""
    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
