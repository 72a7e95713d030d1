"""`training.ema`: an exponential moving average (EMA) of the trained weights along one run.

Averaging the iterates of stochastic gradient descent is Polyak & Juditsky's (1992, SIAM J. Control Optim. 30); the
update is torch's (`torch.optim.swa_utils`)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from finetune_api.run import FaultPlace
from finetune_api.training import EmaSpec
from finetune_trainer.distributed import local, shard_like
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.layers.batch_norm import norms_of

UPDATES = "updates"
"""In a checkpoint, the number of updates; no tensor of a model has this name, as theirs have dots."""
FADING = 9
"""In the warm-up of the decay, as TensorFlow has it."""


def decay_after(updates: int, decay: float) -> float:
    """Share of the average that the next update keeps, after a number of `updates`.

    min(decay, (1 + t) / (10 + t)), TensorFlow's warm-up (`tf.train.ExponentialMovingAverage` with `num_updates`), with
    t = updates - 1. So the first update takes the trained weights as they are, and no weight of before counts; without
    a warm-up, a decay of 0.999 would leave the first weights three quarters of the average after 300 updates.
    """
    return min(decay, updates / (updates + FADING))


class MovingAverage:
    """The average of what a run trains, beside the model: this rank's part of it where the model is sharded.

    Averaged are the optimizer's parameters, so frozen weights are shared with the model and take no memory, and the
    running mean and variance of batch normalisation, by the same rule: where the inputs of a layer are fixed, the
    average of its running means is the mean under averaged weights. The variance is not exactly that, so the averaged
    model is judged by its evaluation. All other buffers are constants or counters, and are shared.

    Every rank computes the same average without communication, as all have the same weights.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, spec: EmaSpec) -> None:
        self._spec, self.updates = spec, 0
        trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        names = {statistic for norm in norms_of(model) for statistic in norm.buffers(recurse=False)}
        self._live: dict[str, Tensor] = {
            name: value for name, value in model.named_parameters() if value in trained
        }
        self._live |= {
            name: value
            for name, value in model.named_buffers()
            if value in names and value.is_floating_point()
        }
        self._averages = {name: value.detach().clone() for name, value in self._live.items()}

    def update(self, step: int) -> None:
        """Take up the weights after optimizer step number `step`, where the spec asks for it."""
        if step % self._spec.every:
            return
        follow = get_ema_multi_avg_fn(decay_after(self.updates, self._spec.decay))  # type: ignore[no-untyped-call]
        averages, live = map(_local, self._averages.values()), map(_local, self._live.values())
        follow(list(averages), list(live), self.updates)
        self.updates += 1

    def swap(self) -> None:
        """Exchange the model's weights and statistics with the averaged ones; a second call undoes the first."""
        for name, value in self._live.items():
            live, average = _local(value), _local(self._averages[name])
            trained = live.clone()
            live.copy_(average)
            average.copy_(trained)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within it, the model has the averaged weights and statistics."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def capture(self) -> dict[str, Tensor]:
        """Tensors for a checkpoint, the very ones; of a sharded model this rank's shards."""
        averages = {name: value.contiguous() for name, value in self._averages.items()}
        return averages | {UPDATES: torch.tensor(self.updates)}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Return to a captured average, in place."""
        names = saved.keys() - {UPDATES}
        assert names == self._averages.keys(), f"other tensors: {sorted(names ^ self._averages.keys())[:5]}"
        for name, average in self._averages.items():
            average.copy_(shard_like(saved[name], average))
        self.updates = int(saved[UPDATES])


def _local(tensor: Tensor) -> Tensor:
    """The memory of a tensor on this rank."""
    return local(tensor.detach())


def check_average_starts(spec: EmaSpec | None, total_steps: int) -> None:
    """Raise ConfigurationError where a run ends before the first update of its average."""
    if spec is not None and spec.every > total_steps:
        raise ConfigurationError(
            f"training.ema.every is {spec.every}, but the run has only {total_steps} optimizer steps, so the average"
            " never gets an update; lower training.ema.every, or train for more steps",
            FaultPlace(field="training.ema.every"),
        )
