"""What hyperparameter search gains at equal device seconds: searches replayed on a table of trained runs.

    python tests/bench/search_gain.py [--searches 40]

`search_table` trains the table. Regret is how far the mean over seeds of the configuration that a search found is below
the best configuration's. Intervals are 95 % of bootstrap means over the searches (Efron 1979): they say nothing about
other data, models or seeds of training.
"""

import argparse
import math
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("api", "core", "operator", "tests")]

from bench.search_grid import SEEDS, TABLE, Table, Values, key_of, read_table  # noqa: E402
from bench.search_replay import METRIC, RANGED, TICKS, Replay, replay  # noqa: E402
from bench.tables import markdown  # noqa: E402
from finetune_api.search import DEFAULT_TRIALS, MOST_TRIALS  # noqa: E402
from finetune_api.status import TrialState  # noqa: E402
from finetune_core.search.decision import saved_seconds  # noqa: E402
from finetune_core.search.trials import Trial, best_of, ranking  # noqa: E402

Rows = list[dict[str, Any]]

BUDGETS = (10, 20, 30)
"""In whole runs: device seconds, divided by the mean of a run that trains to its end."""
RANDOM, TPE = {"algorithm": "Random"}, {"algorithm": "TPE"}
METHODS: dict[str, dict[str, Any]] = {
    "Random": RANDOM,
    "Random + ASHA": RANDOM | {"pruner": {"asha": {}}},
    "Random + ASHA, minEpochs 3": RANDOM | {"pruner": {"asha": {"minEpochs": 3}}},
    "TPE": TPE,
    "TPE + ASHA": TPE | {"pruner": {"asha": {}}},
    "TPE + ASHA, minEpochs 3": TPE | {"pruner": {"asha": {"minEpochs": 3}}},
    "TPE, learning rate as a range": TPE | {"parameters": RANGED},
}


def with_interval(values: Sequence[float], form: str = ".3f") -> str:
    """Mean with its interval."""
    source = random.Random(0)
    means = sorted(fmean(source.choices(values, k=len(values))) for _ in range(2000))
    return f"{fmean(values):{form}} ({means[49]:{form}} to {means[1949]:{form}})"


def at_equal_seconds(table: Table, searches: int, parallelism: int) -> Iterator[Rows]:
    """What each method reaches within each budget, and its regret beside that of Random with the same seeds."""
    whole = table.whole_run()
    limits = {"maxTrials": MOST_TRIALS, "maxDeviceSeconds": round(BUDGETS[-1] * whole * TICKS)}
    limits |= {"parallelism": parallelism}
    values, regrets = {}, {}
    for name, method in METHODS.items():
        played = [replay(table, number, **method, **limits) for number in range(searches)]
        for budget in BUDGETS:
            found = [one.best_within(budget * whole) for one in played]
            values[name, budget] = [one.value for one in found]
            regrets[name, budget] = [table.best_mean() - table.mean(one.values) for one in found]
    yield [
        {"best value within": name}
        | {f"{budget} whole runs": with_interval(values[name, budget]) for budget in BUDGETS}
        for name in METHODS
    ]
    yield [
        {"regret within": name}
        | {f"{budget} whole runs": with_interval(regrets[name, budget]) for budget in BUDGETS}
        for name in METHODS
    ]
    yield [
        {"regret minus that of Random": name}
        | {
            f"{budget} whole runs": with_interval(
                [a - b for a, b in zip(regrets[name, budget], regrets["Random", budget], strict=True)], "+.3f"
            )
            for budget in BUDGETS
        }
        for name in METHODS
        if name != "Random"
    ]


def savings(table: Table, searches: int, parallelism: int) -> Iterator[Rows]:
    """Device seconds of the default number of trials with pruning, and what it saved."""
    rows = []
    for name, method in METHODS.items():
        if "pruner" in method:
            limits = {"maxTrials": DEFAULT_TRIALS, "parallelism": parallelism}
            played = [replay(table, number, **method, **limits) for number in range(searches)]
            pruned = [one.search().count(TrialState.PRUNED) for one in played]
            estimates = [saved_seconds(one.search()) / TICKS for one in played]
            rows.append(
                {
                    "search": name,
                    "trials pruned": f"{fmean(pruned):.1f} of {DEFAULT_TRIALS}",
                    "device seconds": with_interval([one.spent() for one in played], ".0f"),
                    "saved": with_interval([one.saved() for one in played], ".0f"),
                    "saved, as `status.trials` estimates it": with_interval(estimates, ".0f"),
                    "share saved": f"{fmean(_saved_share(one) for one in played):.0%}",
                }
            )
    yield rows


def _saved_share(one: Replay) -> float:
    """Device seconds saved, relative to those without pruning."""
    return one.saved() / (one.saved() + one.spent())


def duplicates(table: Table, searches: int, parallelism: int) -> Iterator[Rows]:
    """How many configurations the trials of a search have: one that is tried twice gives the same value again."""
    rows = []
    for name, method in METHODS.items():
        limits = {"maxTrials": DEFAULT_TRIALS, "parallelism": parallelism}
        played = [replay(table, number, **method, **limits) for number in range(searches)]
        found = [one.search().trials for one in played]
        best = [ranking(trials, METRIC)[:3] for trials in found]
        rows.append(
            {
                "search": name,
                f"configurations of {DEFAULT_TRIALS} trials": f"{fmean(map(_distinct, played, found)):.1f}",
                "configurations of the three best": f"{fmean(map(_distinct, played, best)):.1f}",
            }
        )
    yield rows


def _distinct(one: Replay, trials: Sequence[Trial]) -> int:
    return len({key_of(one.trained(trial), 0) for trial in trials})


def confirmation(table: Table, searches: int, parallelism: int) -> Iterator[Rows]:
    """What repeating the three best trials changes: the winner, what it is worth, the price.

    The mean over seeds flatters both winners, as they were chosen by some of its seeds, and the confirmed one by more.
    With one repetition each the table has a seed left that chose none of them.
    """
    for seeds in (1, 2):
        rows = []
        for name, method in METHODS.items():
            limits = {"maxTrials": DEFAULT_TRIALS, "parallelism": parallelism}
            confirm = {"confirm": {"top": 3, "seeds": seeds}}
            played = [replay(table, number, **method, **limits, **confirm) for number in range(searches)]
            rows.append(
                {f"confirm, seeds: {seeds}": name}
                | _compared(table, played)
                | (_on_the_seed_left(table, played) if seeds == 1 else {})
                | {"device seconds more": f"{fmean(_price(one) for one in played):.0%}"}
            )
        yield rows


def _winners(one: Replay) -> tuple[Values, Values]:
    """Configuration of the best single value, and the confirmed one."""
    single, confirmed = best_of(one.search().trials, METRIC), one.search().best
    assert single
    assert confirmed
    return one.trained(single), one.trained(confirmed)


def _compared(table: Table, played: list[Replay]) -> dict[str, str]:
    """How often the winner changes, and its mean over all seeds before and after."""
    pairs = [_winners(one) for one in played]
    before, after = ([table.mean(pair[index]) for pair in pairs] for index in (0, 1))
    return {
        "another winner": f"{fmean(single != confirmed for single, confirmed in pairs):.0%}",
        "best value": with_interval([one.best_within(math.inf).value for one in played]),
        "its mean over seeds": with_interval(before),
        "with confirm": with_interval(after),
        "difference": with_interval([b - a for a, b in zip(before, after, strict=True)], "+.3f"),
    }


def _on_the_seed_left(table: Table, played: list[Replay]) -> dict[str, str]:
    """The values of both winners with the seed that neither the trials nor their repetitions had."""
    before, after = [], []
    for one in played:
        used = {run.curve.seed for run in one.playing.values()}
        (left,) = (seed for seed in SEEDS if seed not in used)
        single, confirmed = (table.curve(values, left).accuracy[-1] for values in _winners(one))
        before.append(single)
        after.append(confirmed)
    return {
        "on the seed left": with_interval(before),
        "on the seed left, with confirm": with_interval(after),
        "difference there": with_interval([b - a for a, b in zip(before, after, strict=True)], "+.3f"),
    }


def _price(one: Replay) -> float:
    """Device seconds of the repetitions, relative to those of the trials."""
    return one.repeating() / (one.spent() - one.repeating())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser("search_gain", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--searches", type=int, default=40, help="per method (default %(default)s)")
    parser.add_argument("--table", type=Path, default=TABLE, help="(default %(default)s)")
    options = parser.parse_args()
    table = read_table(options.table)
    print(f"best mean {table.best_mean():.4f}, a whole run {table.whole_run():.1f} CPU seconds")
    print(
        "to train the table again, move it away: OMP_NUM_THREADS=1 nice python tests/bench/search_table.py\n"
    )
    for measure in (at_equal_seconds, savings, duplicates, confirmation):
        for parallelism in (1, 4):
            print(f"{measure.__name__}, parallelism {parallelism}, {options.searches} searches\n")
            for rows in measure(table, options.searches, parallelism):
                print(markdown(rows), flush=True)


if __name__ == "__main__":
    main()
