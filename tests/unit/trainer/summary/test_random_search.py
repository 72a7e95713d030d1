"""What random search would have reached: by exact odds, a simulation draw by draw, and searches that really ran."""

import random

import numpy as np
import pytest

from finetune_trainer.summary.random_search import bootstrap_best, random_search_estimate
from finetune_trainer.summary.words import summary
from unit.trainer.summary.searches import history, trial

VALUES = [0.61, 0.7, 0.55, 0.83, 0.64, 0.72, 0.5, 0.78, 0.81, 0.69]
SECONDS = [40, 70, 30, 90, 20, 60, 50, 80, 100, 10]


def direct(values, seconds, budget, source):
    """One random search, as it would be run: the next run starts while time is left, and counts if it ends in time."""
    best, spent = None, 0
    while True:
        drawn = source.randrange(len(values))
        spent += seconds[drawn]
        if best is not None and spent > budget:
            return best
        best = values[drawn] if best is None else max(best, values[drawn])
        if spent >= budget:
            return best


@pytest.mark.parametrize("draws", [1, 2, 5])
def test_runs_of_equal_length_reach_the_quantiles_of_the_maximum_of_independent_draws(draws):
    found = bootstrap_best(np.array(VALUES), np.full(10, 60.0), 60.0 * draws, rounds=40_000)
    for rank, value in enumerate(sorted(VALUES), start=1):
        assert np.mean(found <= value) == pytest.approx((rank / 10) ** draws, abs=0.01)


@pytest.mark.parametrize("budget", [5, 100, 250, 700])
def test_runs_of_unequal_length_agree_with_a_simulation_draw_by_draw(budget):
    source = random.Random(1)
    simulated = [direct(VALUES, SECONDS, budget, source) for _ in range(40_000)]
    found = bootstrap_best(np.array(VALUES), np.array(SECONDS, float), budget, rounds=40_000)
    assert set(found) <= set(VALUES)
    for value in VALUES:
        assert np.mean(found <= value) == pytest.approx(np.mean(np.array(simulated) <= value), abs=0.015)


def test_an_estimate_from_many_random_runs_covers_the_random_searches_that_really_run():
    source = random.Random(2)

    def run():
        value = 1 - (source.uniform(-1, 1) ** 2 + source.uniform(-1, 1) ** 2) / 2
        return value, source.uniform(20, 60)

    values, seconds = zip(*(run() for _ in range(300)), strict=True)
    estimated = bootstrap_best(np.array(values), np.array(seconds), 400.0, rounds=20_000)
    real = []
    for _ in range(5_000):
        drawn, took = zip(*(run() for _ in range(40)), strict=True)
        real.append(direct(drawn, took, 400.0, Ordered()))
    for quantile in (0.05, 0.5, 0.95):
        assert np.quantile(estimated, quantile) == pytest.approx(np.quantile(real, quantile), abs=0.03)


class Ordered:
    """Draws fresh runs one after the other."""

    def __init__(self):
        self.next = -1

    def randrange(self, count):
        self.next += 1
        assert self.next < count
        return self.next


def started(count=20, **changes):
    trials = [trial(n, 0.5 + n / 100, seconds=60) for n in range(1, count + 1)]
    return [*trials[:9], trial(10, 0.7, seconds=60), *trials[10:]], changes


def test_the_first_ten_trials_of_tpe_stand_for_random_search():
    trials, _ = started()
    found = random_search_estimate(history(*trials))
    assert (found.median, found.high) == (0.7, 0.7)  # ten values, twenty draws
    assert 0.58 <= found.low <= 0.7
    said = " ".join(summary(history(*trials)))
    assert "Random search would have reached eval_accuracy 0.7 in the same training time" in said
    assert "never better than the best of them" in said


def test_the_best_loss_is_the_lowest():
    trials = [trial(n, n / 10, seconds=60) for n in range(1, 11)]
    found = random_search_estimate(history(*trials, metric="eval_loss", best=1))
    assert found.low <= found.median <= found.high
    assert (found.low, found.median) == (0.1, 0.1)


@pytest.mark.parametrize(
    ("changes", "without"),
    [
        ({"algorithm": "Random"}, None),
        ({"algorithm": "Grid"}, None),
        ({}, trial(3, 0.6, "Pruned")),
        ({}, trial(3, None, "Failed")),
        ({}, trial(3, 0.6, seconds=0)),
    ],
)
def test_without_ten_random_trials_that_succeeded_there_is_no_estimate(changes, without):
    trials, _ = started()
    if without:
        trials[2] = without
    made = history(*trials, **changes)
    assert random_search_estimate(made) is None
    assert "Random search" not in " ".join(summary(made))
