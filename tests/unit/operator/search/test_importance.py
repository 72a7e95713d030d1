"""Which field mattered: known from how the values were made."""

import math

from finetune_api.status import TrialState
from finetune_core.search.importance import FEWEST, importances
from finetune_core.search.samplers import propose
from finetune_core.search.trials import Trial
from unit.operator.search.spaces import BATCH, BATCHES, RATE, RATES, searching, trial

SPEC = searching(RATES, BATCHES, algorithm="Random")
assert SPEC.search
PARAMETERS = SPEC.search.parameters


def trials(count: int) -> list[Trial]:
    """Trials whose value depends on the rate alone."""
    found = []
    for number in range(1, count + 1):
        values = propose(SPEC, number, [], "loss")
        assert values
        found.append(trial(number, values=values, value=abs(math.log10(values[RATE] / 3e-4))))
    return found


def test_the_field_that_decides_has_nearly_all_of_the_share() -> None:
    shares = importances(PARAMETERS, trials(40), "loss")
    assert set(shares) == {RATE, BATCH}
    assert shares[RATE] > 0.8
    assert abs(sum(shares.values()) - 1) < 1e-6


def test_few_or_equal_trials_tell_nothing() -> None:
    assert importances(PARAMETERS, trials(FEWEST - 1), "loss") == {}
    equal = [trial(n, values={RATE: 1e-4 * n, BATCH: 16}, value=0.5) for n in range(1, 20)]
    assert importances(PARAMETERS, equal, "loss") == {}
    pruned = [
        trial(n, TrialState.PRUNED, values={RATE: 1e-4 * n, BATCH: 16}, value=0.5) for n in range(1, 20)
    ]
    assert importances(PARAMETERS, pruned, "loss") == {}
