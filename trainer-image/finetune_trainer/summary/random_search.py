"""What random search would have reached with the compute of a search, estimated from its random trials. Pure.

Dodge et al. 2019, "Show Your Work: Improved Reporting of Experimental Results", for runs of unequal length.
"""

import numpy as np
from numpy.typing import NDArray

from finetune_api.metrics import Direction, direction
from finetune_api.search import Algorithm
from finetune_api.search_history import SearchHistory
from finetune_api.status import RandomSearchStatus, TrialState

RANDOM_TRIALS = 10
"""Trials that TPE starts with; their values are drawn at random."""
ROUNDS = 2000


def random_search_estimate(history: SearchHistory) -> RandomSearchStatus | None:
    """Estimate from the random trials at the start of TPE, for the seconds that all trials of the search took.

    None for another algorithm, or unless all of the first ten trials succeeded. The estimate is never better than the
    best of these, so it underestimates a random search with many more trials.
    """
    first = [t for t in history.trials if t.number <= RANDOM_TRIALS and t.state is TrialState.SUCCEEDED]
    runs = [(trial.value, trial.seconds) for trial in first if trial.value is not None and trial.seconds > 0]
    if history.algorithm is not Algorithm.TPE or len(runs) < RANDOM_TRIALS:
        return None
    sign = 1.0 if direction(history.metric) is Direction.MAXIMIZE else -1.0
    values = np.array([sign * value for value, _ in runs])
    seconds = np.array([float(each) for _, each in runs])
    found = sign * bootstrap_best(values, seconds, sum(trial.seconds for trial in history.trials))
    low, median, high = np.quantile(found, [0.05, 0.5, 0.95], method="inverted_cdf")
    return RandomSearchStatus(median=float(median), low=float(low), high=float(high))


def bootstrap_best(
    values: NDArray[np.float64],
    seconds: NDArray[np.float64],
    budget: float,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> NDArray[np.float64]:
    """The highest value of the runs that end within the budget, in each of several random searches: (rounds,).

    A random search draws runs with replacement, one after the other. Its first run counts even if it takes longer.
    """
    source = np.random.default_rng(seed)
    best, spent = np.full(rounds, -np.inf), np.zeros(rounds)
    running = np.ones(rounds, dtype=bool)
    while running.any():
        drawn = source.integers(len(values), size=rounds)
        running &= np.isneginf(best) | (spent + seconds[drawn] <= budget)
        spent += seconds[drawn]
        best = np.where(running, np.maximum(best, values[drawn]), best)
    return best
