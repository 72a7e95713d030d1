"""The bench that replays searches: its table is whole, and a replayed search trains what the operator decides."""

import json
import math
from itertools import product
from statistics import fmean

import pytest

from bench.search_grid import EPOCHS, GRID, SEEDS, TABLE, Curve, Table, read_table
from bench.search_replay import Replay, replay
from finetune_api.status import TrialState


@pytest.fixture(scope="module")
def table() -> Table:
    return read_table()


def test_the_table_has_every_configuration_with_every_seed_once() -> None:
    curves = [Curve(**json.loads(line)) for line in TABLE.read_text().splitlines()]
    trained = sorted((*(curve.values[path] for path in GRID), curve.seed) for curve in curves)
    assert trained == sorted(product(*GRID.values(), SEEDS))
    for curve in curves:
        assert len(curve.loss) == len(curve.accuracy) == len(curve.seconds) == EPOCHS
        assert all(math.isfinite(loss) for loss in curve.loss)
        assert all(0 <= accuracy <= 1 for accuracy in curve.accuracy)
        assert curve.seconds == sorted(curve.seconds)
        assert curve.seconds[0] > 0


def test_a_grid_search_trains_all_runs_of_its_seed_and_finds_the_best(table: Table) -> None:
    found = replay(table, 1, algorithm="Grid", parallelism=3, maxTrials=48)
    column = [
        table.curve(dict(zip(GRID, values, strict=True)), SEEDS[1]) for values in product(*GRID.values())
    ]
    assert found.spent() == pytest.approx(sum(curve.seconds[-1] for curve in column), abs=1)
    assert found.best_within(math.inf).value == max(curve.accuracy[-1] for curve in column)
    assert found.search().count(TrialState.SUCCEEDED) == len(column)
    assert found.saved() == 0


def test_a_replay_is_the_same_again_and_another_seed_gives_another(table: Table) -> None:
    def trials(number: int) -> list[object]:
        found = replay(table, number, pruner={"asha": {}}, parallelism=4, maxTrials=16)
        assert found.search().count(TrialState.PRUNED) > 0
        return [found.successes, [one.trial for one in found.playing.values()]]

    assert trials(2) == trials(2)
    assert trials(2) != trials(3)


def test_pruned_trials_spend_less_and_the_rest_is_saved(table: Table) -> None:
    whole, pruned = (
        replay(table, 5, algorithm="Random", maxTrials=12, **fields)
        for fields in ({}, {"pruner": {"asha": {}}})
    )
    assert pruned.saved() > 0
    assert pruned.spent() + pruned.saved() == pytest.approx(whole.spent(), abs=1)


def test_a_budget_ends_a_search_and_what_it_reaches_does_not_fall(table: Table) -> None:
    found = replay(table, 4, algorithm="Random", parallelism=4, maxTrials=900, maxDeviceSeconds=100 * 120)
    assert 120 <= found.spent() < 120 + 4 * table.whole_run()
    assert found.best_within(60).spent <= 60
    assert found.best_within(60).value <= found.best_within(120).value


def test_the_three_best_are_repeated_with_the_other_seeds(table: Table) -> None:
    found = replay(table, 6, algorithm="Random", maxTrials=8, confirm={"top": 3, "seeds": 2})
    repeats = {run: one.curve for run, one in found.playing.items() if not run.is_trial}
    assert len(repeats) == 6
    assert {curve.seed for curve in repeats.values()} == {*SEEDS} - {SEEDS[6 % len(SEEDS)]}
    assert _best_by_mean(found) == found.search().best


def _best_by_mean(found: Replay) -> object:
    means = {
        run.trial: fmean(
            one.curve.accuracy[-1]
            for other, one in found.playing.items()
            if other.trial == run.trial and not other.is_trial
        )
        for run in found.playing
        if not run.is_trial
    }
    best = max(means, key=lambda number: (means[number], -number))
    return next(trial for trial in found.search().trials if trial.number == best)
