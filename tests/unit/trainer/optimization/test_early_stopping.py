"""When training stops because the metric no longer improves."""

import math

import pytest

from finetune_api.training import EarlyStoppingSpec
from finetune_trainer.optimization.early_stopping import Patience


def stops_at(spec, values):
    patience = Patience()
    for number, value in enumerate(values, start=1):
        patience = patience.after(spec, value)
        if patience.exhausted(spec):
            return number
    return None


@pytest.mark.parametrize(
    ("metric", "patience", "min_delta", "values", "stop"),
    [
        ("loss", 2, 0.0, [1.0, 0.9, 0.95, 0.96], 4),
        ("loss", 2, 0.0, [1.0, 0.9, 0.95, 0.8, 0.85, 0.85], 6),
        ("eval_loss", 1, 0.0, [1.0, 1.0], 2),
        ("loss", 3, 0.1, [1.0, 0.95, 0.91, 0.9], 4),
        ("loss", 3, 0.1, [1.0, 0.95, 0.91, 0.89], None),
        ("accuracy", 2, 0.0, [0.5, 0.6, 0.6, 0.59], 4),
        ("accuracy", 2, 0.0, [0.5, 0.6, 0.7, 0.8], None),
        ("loss", 2, 0.0, [math.nan, None], 2),
        ("loss", 2, 0.0, [1.0, math.inf, 0.9, math.nan, 0.95], 5),
    ],
)
def test_training_stops_at_the_evaluation_computed_by_hand(metric, patience, min_delta, values, stop):
    spec = EarlyStoppingSpec(metric=metric, patience=patience, min_delta=min_delta)
    assert stops_at(spec, values) == stop


def test_without_early_stopping_nothing_stops():
    assert not Patience(bad_evaluations=1000).exhausted(None)
