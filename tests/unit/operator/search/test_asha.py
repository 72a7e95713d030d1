"""Asynchronous successive halving: who ends at which evaluation."""

import pytest

from finetune_api.search import AshaSpec
from finetune_core.search.asha import why_pruned
from unit.operator.search.spaces import curve

ASHA = AshaSpec(min_epochs=1, reduction_factor=3)


@pytest.mark.parametrize(
    ("own", "others", "pruned"),
    [
        pytest.param((0.9,), [], False, id="first at the rung"),
        pytest.param((0.9,), [(0.5,)], False, id="too few at the rung to compare"),
        pytest.param((0.9,), [(0.5,), (0.6,)], True, id="worst of three"),
        pytest.param((0.55,), [(0.5,), (0.6,)], True, id="second of three: one of three continues"),
        pytest.param((0.4,), [(0.5,), (0.6,)], False, id="best of three"),
        pytest.param((0.5,), [(0.5,), (0.5,)], False, id="equal to the best"),
        pytest.param((0.9, 0.9), [(0.5,), (0.6,)], False, id="past the rung: an old decision is not made up for"),
        pytest.param((0.9, 0.9, 0.8), [(0.1,), (0.2,)], False, id="nobody else at the second rung"),
        pytest.param((0.9, 0.9, 0.8), [(0.9, 0.9, 0.5), (0.9, 0.9, 0.6)], True, id="worst at the second rung"),
        pytest.param((0.9, 0.3, 0.8), [(0.9, 0.9, 0.5), (0.9, 0.9, 0.6)], False, id="its best so far counts"),
        pytest.param((0.9,), [(0.9, 0.1), (0.9, 0.1)], False, id="later values of others do not count"),
        pytest.param((), [(0.5,), (0.6,)], False, id="not evaluated yet"),
    ],
)  # fmt: skip
def test_a_trial_ends_when_the_evaluation_that_reaches_a_rung_is_not_among_the_best(
    own: tuple[float, ...], others: list[tuple[float, ...]], pruned: bool
) -> None:
    why = why_pruned(ASHA, "loss", curve(*own), [curve(*other) for other in others])
    assert (why is not None) == pruned


def test_higher_is_better_where_the_metric_says_so_and_the_reason_has_the_numbers() -> None:
    others = [curve(0.7), curve(0.6), curve(0.5)]
    assert why_pruned(ASHA, "accuracy", curve(0.8), others) is None
    assert why_pruned(ASHA, "accuracy", curve(0.65), others) == (
        "accuracy 0.65 after 1 epochs is not among the best 1 of 4 trials there"
    )


def test_an_evaluation_that_skips_a_rung_reaches_it() -> None:
    own = curve(0.9, 0.9)[1:]
    assert why_pruned(ASHA, "loss", own, [curve(0.1), curve(0.2)]) is not None


def test_a_trial_whose_early_evaluations_are_not_known_any_more_is_not_compared() -> None:
    long = curve(*[0.9] * 40, *[0.1] * 20)
    assert why_pruned(ASHA, "loss", curve(0.95), [long, long]) is not None
    assert why_pruned(ASHA, "loss", curve(0.95), [long[-50:], long[-50:]]) is None
