"""The moving average of the weights: the numbers of its definition, what is part of it, and what is not."""

import math

import numpy as np
import pytest

from finetune_api.model import FreezeSpec
from finetune_api.training import EmaSpec, OptimizerSpec
from finetune_trainer.distributed import full_tensor
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.models.freezing import apply_unfreezing, freeze, unfrozen_later
from finetune_trainer.optimization.ema import UPDATES, MovingAverage, check_average_starts, decay_after
from finetune_trainer.optimization.optimizer import build_optimizer
from unit.trainer.runs import a_run, largest_difference, tiny_model, weights

NOISY = {"name": "SGD", "learningRate": 0.5, "weightDecay": 0.0}


def averages(average):
    """Of the parameters and statistics, whole, as arrays."""
    found = {name: value for name, value in average.capture().items() if name != UPDATES}
    return {name: full_tensor(value).clone().numpy() for name, value in found.items()}


def stepped(count, **ema):
    """A run after some steps, and its weights after each of them."""
    from finetune_trainer.training.loop import train_step

    run, state = a_run(
        maxSteps=count, optimizer=NOISY, schedule={"name": "Constant", "warmup": {"steps": 0}}, ema=ema
    )
    path = []
    for _ in range(count):
        assert train_step(run, state) is not None
        path.append(weights(run))
    return run, path


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("every", [1, 3])
def test_the_average_is_that_of_its_definition_in_float64(decay, every):
    """As one weighted sum over the weights after every update, not step by step as the trainer computes it."""
    run, path = stepped(20, decay=decay, every=every)
    taken = path[every - 1 :: every]
    keeps = [0.0, *(min(decay, (1 + t) / (10 + t)) for t in range(len(taken) - 1))]
    shares = [(1 - keep) * math.prod(keeps[number + 1 :]) for number, keep in enumerate(keeps)]
    assert sum(shares) == pytest.approx(1, abs=1e-12)
    assert run.average.updates == len(taken)
    found = averages(run.average)
    exact = {
        name: sum(share * each[name].astype(np.float64) for share, each in zip(shares, taken, strict=True))
        for name in found
    }
    assert largest_difference(found, exact) < 1e-6
    assert largest_difference(exact, path[-1]) > 1e-3


def test_the_decay_rises_as_tensorflow_has_it_up_to_the_one_asked_for():
    assert [decay_after(updates, 0.2) for updates in range(5)] == [0, 1 / 10, 2 / 11, 0.2, 0.2]
    assert decay_after(8990, 0.999) < 0.999 == decay_after(8991, 0.999)


def test_the_first_update_takes_the_weights_as_they_are_and_nothing_of_those_before():
    run, (first,) = stepped(1, decay=0.999)
    assert all(np.array_equal(value, first[name]) for name, value in averages(run.average).items())


def test_the_model_has_the_average_for_a_while_and_its_own_weights_again_after_an_error_too():
    run, path = stepped(5, decay=0.9)
    average = averages(run.average)
    within = {}
    flags = [parameter.requires_grad for parameter in run.task.model.parameters()]
    with pytest.raises(KeyboardInterrupt), run.average.swapped():
        raise KeyboardInterrupt(within.update(weights(run)))
    assert all(np.array_equal(value, average[name]) for name, value in within.items())
    assert any(not np.array_equal(value, average[name]) for name, value in path[-1].items())
    assert all(np.array_equal(value, path[-1][name]) for name, value in weights(run).items())
    assert all(np.array_equal(value, average[name]) for name, value in averages(run.average).items())
    assert flags == [parameter.requires_grad for parameter in run.task.model.parameters()]


def test_frozen_weights_are_no_part_of_it_and_those_that_are_unfrozen_later_are_from_the_start():
    spec = FreezeSpec(embeddings=True, layers=1, unfreeze_every={"steps": 2})
    model = tiny_model("classification")
    freeze(model, spec)
    optimizer = build_optimizer(model, OptimizerSpec(), later=unfrozen_later(model, spec))
    average = MovingAverage(model, optimizer, EmaSpec(decay=0.7))
    names = averages(average).keys()
    assert not any("embeddings" in name for name in names)
    later = [name for name in names if "encoder.layer.0." in name]
    assert later
    start = averages(average)
    for step in range(1, 4):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * step
        average.update(step)
    reached = averages(average)
    assert all(np.array_equal(start[name], reached[name]) for name in later)
    assert all(not np.array_equal(start[name], reached[name]) for name in names - set(later))
    assert apply_unfreezing(model, spec, 2, 10)


def test_running_statistics_are_averaged_and_counters_are_not():
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    average = MovingAverage(model, build_optimizer_of(model), EmaSpec(decay=0.5))
    for step, value in enumerate((1.0, 3.0), start=1):
        model[1].running_mean.fill_(value)
        model[1].num_batches_tracked.fill_(step)
        average.update(step)
    assert averages(average)["1.running_mean"].tolist() == pytest.approx([2.8, 2.8])
    assert "1.num_batches_tracked" not in averages(average)
    with average.swapped():
        assert model[1].running_mean.tolist() == pytest.approx([2.8, 2.8])
        assert model[1].num_batches_tracked.item() == 2
    assert model[1].running_mean.tolist() == [3.0, 3.0]


def build_optimizer_of(model):
    import torch

    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_an_average_of_other_tensors_is_not_restored():
    run, _ = stepped(2)
    saved = run.average.capture()
    saved.pop(next(iter(saved)))
    with pytest.raises(AssertionError, match="other tensors"):
        run.average.restore(saved)


def test_a_run_that_ends_before_the_first_update_is_refused_with_the_remedy():
    check_average_starts(EmaSpec(every=10), 10)
    check_average_starts(None, 1)
    with pytest.raises(ConfigurationError) as caught:
        check_average_starts(EmaSpec(every=11), 10)
    assert caught.value.place.field == "training.ema.every"
    assert caught.value.message.startswith(
        "training.ema.every is 11, but the run has only 10 optimizer steps, so the average never gets an update; lower"
    )
