"""The next trial's values: the same after a restart, within their bounds, and better than chance."""

import math
import statistics
import subprocess
import sys
from collections.abc import Callable

import pytest

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.status import TrialState
from finetune_core.search.samplers import RANDOM_TRIALS, propose
from finetune_core.search.space import Values
from finetune_core.search.trials import Trial
from unit.operator.search.spaces import BATCH, BATCHES, RATE, RATES, searching, trial

TARGET = 3e-4


def loss(values: Values) -> float:
    """A bowl around one learning rate and one batch size."""
    return abs(math.log10(values[RATE] / TARGET)) + (0.0 if values[BATCH] == 32 else 0.3)


def played(
    spec: FineTuneJobSpec, count: int, value_of: Callable[[Values], float] = loss, metric: str = "loss"
) -> list[Trial]:
    """A search with parallelism 1."""
    trials: list[Trial] = []
    for number in range(1, count + 1):
        values = propose(spec, number, trials, metric)
        assert values is not None
        trials.append(trial(number, values=values, value=value_of(values)))
    return trials


@pytest.mark.parametrize("algorithm", ["TPE", "Random", "Grid"])
def test_the_same_trials_give_the_same_next_trial(algorithm: str) -> None:
    parameters = (
        (RATES, BATCHES) if algorithm != "Grid" else (BATCHES, {"path": RATE, "choice": [1e-4, 3e-4]})
    )
    spec = searching(*parameters, algorithm=algorithm)
    trials = played(spec, 6 if algorithm == "Grid" else 16)
    for number in range(1, len(trials) + 1):
        again = propose(spec, number, list(reversed(trials[: number - 1])), "loss")
        assert again == trials[number - 1].values


def test_another_seed_gives_other_trials_and_the_seed_is_that_of_training_by_default() -> None:
    def first(**fields: object) -> Values | None:
        training = {"seed": fields.pop("training_seed")} if "training_seed" in fields else None
        return propose(searching(RATES, training=training, **fields), 1, [], "loss")

    assert first(seed=7) == first(training_seed=7)
    assert first(seed=7) != first(seed=8)


def test_values_are_of_their_kind_and_within_their_bounds() -> None:
    epochs = {"path": "training.epochs", "integer": {"min": 2, "max": 9, "step": 3}}
    smoothing = {"path": "training.optimizer.weightDecay", "uniform": {"min": 0.0, "max": 0.3}}
    for algorithm in ("TPE", "Random"):
        trials = played(searching(RATES, BATCHES, epochs, smoothing, algorithm=algorithm), 25)
        for one in trials:
            assert 1e-5 <= one.values[RATE] <= 1e-2
            assert one.values[BATCH] in (16, 32, 64)
            assert one.values["training.epochs"] in (2, 5, 8)
            assert 0 <= one.values["training.optimizer.weightDecay"] <= 0.3
        rates = [math.log10(one.values[RATE]) for one in trials[:RANDOM_TRIALS]]
        assert min(rates) < -4
        assert max(rates) > -3


def test_tpe_finds_better_values_than_chance_in_both_directions() -> None:
    for metric, sign in (("loss", 1), ("accuracy", -1)):
        means = {}
        for algorithm in ("TPE", "Random"):
            found = []
            for seed in range(4):
                spec = searching(RATES, BATCHES, algorithm=algorithm, seed=seed)
                trials = played(spec, 30, lambda values, sign=sign: sign * loss(values), metric)
                found.append(statistics.mean(loss(one.values) for one in trials[15:]))
            means[algorithm] = statistics.mean(found)
        assert means["TPE"] < 0.6 * means["Random"], (metric, means)


def test_trials_of_every_state_feed_tpe_and_one_with_foreign_values_is_ignored() -> None:
    spec = searching(RATES, BATCHES)
    trials = played(spec, RANDOM_TRIALS)
    states = [
        TrialState.PRUNED,
        TrialState.FAILED,
        TrialState.RUNNING,
        TrialState.PENDING,
        TrialState.SUSPENDED,
    ]
    mixed = [
        *trials[len(states) :],
        *[trial(n + 1, state, values=trials[n].values, value=1.0) for n, state in enumerate(states)],
        trial(11, values={RATE: 7.0, BATCH: 32}, value=0.0),
        trial(12, values={RATE: None, BATCH: "many"}, value=0.0),
    ]
    without = [one for one in mixed if one.number < 11]
    assert propose(spec, 13, mixed, "loss") == propose(spec, 13, without, "loss")


def test_running_trials_repel_the_next_one() -> None:
    """Else four trials that start at once would all try the same values."""
    spec = searching(RATES, BATCHES, parallelism=4)
    trials = played(spec, 15)
    for number in range(16, 20):
        values = propose(spec, number, trials, "loss")
        assert values is not None
        trials.append(trial(number, TrialState.RUNNING, values=values))
    assert len({one.values[RATE] for one in trials[15:]}) == 4


def test_a_combination_that_the_rules_refuse_is_drawn_again() -> None:
    micro = {"path": "training.microBatchSize", "choice": [8, 64]}
    trials = played(searching(BATCHES, micro, RATES), 30)
    pairs = {(one.values[BATCH], one.values["training.microBatchSize"]) for one in trials}
    assert pairs <= {(16, 8), (32, 8), (64, 8), (64, 64)}
    assert (64, 64) in pairs


@pytest.mark.parametrize("algorithm", ["Random", "TPE"])
def test_no_combination_is_tried_twice_until_all_were(algorithm: str) -> None:
    of = searching(BATCHES, {"path": "training.epochs", "integer": {"min": 1, "max": 5}}, algorithm=algorithm)
    found: list[Trial] = []
    for number in range(1, 16):
        values = propose(of, number, found, "loss")
        assert values
        found.append(trial(number, value=float(values[BATCH]), values=values))
    assert len({str(sorted(one.values.items())) for one in found}) == 15
    assert propose(of, 16, found, "loss") in [one.values for one in found], "one of them again"


def test_nothing_is_proposed_when_the_rules_refuse_every_combination() -> None:
    spec = searching({"path": "training.microBatchSize", "choice": [128]}, training={"batchSize": 32})
    assert propose(spec, 1, [], "loss") is None


def test_conditional_fields_are_only_drawn_where_their_condition_holds() -> None:
    name = {"path": "training.optimizer.name", "choice": ["AdamW", "SGD"]}
    momentum = {
        "path": "training.optimizer.momentum",
        "uniform": {"min": 0.0, "max": 0.9},
        "when": {"path": name["path"], "values": ["SGD"]},
    }
    trials = played(searching(momentum, name, RATES), 25, lambda values: len(values))
    for one in trials:
        assert ("training.optimizer.momentum" in one.values) == (one.values[name["path"]] == "SGD")
    assert {one.values[name["path"]] for one in trials} == {"AdamW", "SGD"}


def test_an_operator_without_a_search_does_not_load_optuna() -> None:
    code = "import sys, finetune_operator.__main__; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
