"""Statistics of batch normalisation estimated anew: each layer in the order in which it is passed."""

import numpy as np
import pytest

from finetune_trainer.combine.batch_norm import estimate_statistics
from finetune_trainer.errors import DeviceMemoryError, StoppedError
from finetune_trainer.process.stop import Stop


class Lengths:
    """All that is asked of examples here."""

    lengths = np.arange(1, 38)

    def __len__(self):
        return len(self.lengths)


ROWS = np.random.default_rng(1).normal(2.0, 3.0, (37, 4, 5))


class Passed:
    """What the estimation needs of a task: a model, and how rows go through it; `room` tokens fit into memory."""

    def __init__(self, room=10_000):
        import torch
        from torch import nn

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.second, self.first = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
                self.untracked = nn.BatchNorm1d(4, track_running_stats=False)
                self.dropout = nn.Dropout(0.5)

            def forward(self, values):
                return self.untracked(self.second(self.dropout(self.first(values)).exp()))

        self.model, self.room, self.seen = Model().double().train(), room, []
        self.torch = torch

    def predict(self, examples, batch):
        self.seen.append(len(batch))
        if len(batch) * examples.lengths[batch].max() > self.room:
            raise self.torch.OutOfMemoryError("CUDA out of memory")
        return self.model(self.torch.from_numpy(ROWS[batch]))


@pytest.mark.parametrize(("size", "room"), [(37, 10_000), (5, 10_000), (16, 40)])
def test_the_statistics_are_those_of_all_rows_at_once_however_they_are_batched(size, room):
    task = Passed(room)
    estimate_statistics(task, Lengths(), size, lambda: None)
    values = ROWS.swapaxes(1, 2).reshape(-1, 4)
    for layer in (task.model.first, task.model.second):
        assert layer.running_mean.numpy() == pytest.approx(values.mean(0), rel=1e-12)
        assert layer.running_var.numpy() == pytest.approx(values.var(0, ddof=1), rel=1e-12)
        values = np.exp((values - values.mean(0)) / np.sqrt(values.var(0, ddof=1) + layer.eps))


def test_one_row_that_does_not_fit_is_reported_with_its_length():
    with pytest.raises(DeviceMemoryError, match="with one example of 37 tokens"):
        estimate_statistics(Passed(room=36), Lengths(), 8, lambda: None)


def test_a_stop_ends_the_estimation():
    stop = Stop()

    def check():
        if task.seen:
            raise stop.to_error("")

    task = Passed()
    with pytest.raises(StoppedError):
        estimate_statistics(task, Lengths(), 8, check)
    assert len(task.seen) == 1
