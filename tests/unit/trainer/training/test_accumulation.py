"""Every objective: one batch is one update, in however many micro-batches it is computed."""

import pytest

from unit.trainer.runs import OBJECTIVES, a_run, largest_difference, weights

OPTIMIZERS = {
    "SGD": ({"name": "SGD", "learningRate": 0.1, "weightDecay": 0.0}, 1e-6),
    "AdamW": ({"name": "AdamW", "learningRate": 1e-3}, 1e-4),
}
"""And by how much a weight may differ: AdamW divides by the size of the gradient, so it magnifies rounding of those
near zero; a tenth of its rate is allowed."""


def trained(objective, optimizer, size):
    """The weights after two epochs: batches of 8, 8 and the 7 rows that are left."""
    from finetune_trainer.training.loop import train

    run, state = a_run(objective, epochs=2, microBatchSize=size, optimizer=optimizer)
    start = weights(run)
    train(run, state)
    assert state.step == 6
    return start, weights(run)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_gives_the_weights_of_whole_batches_whatever_the_micro_batch(objective, name):
    optimizer, bound = OPTIMIZERS[name]
    start, whole = trained(objective, optimizer, 8)
    assert largest_difference(start, whole) > 10 * bound
    for size in (3, 1):
        assert largest_difference(whole, trained(objective, optimizer, size)[1]) < bound, size
