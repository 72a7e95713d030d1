"""The plots show the numbers of the search: a picture without marks would be one too."""

from functools import partial
from itertools import pairwise

import pytest

from finetune_api.status import CombinationStatus
from finetune_trainer.summary.plots import history as history_plot
from finetune_trainer.summary.plots import importances, learning_curves, parallel
from finetune_trainer.summary.plots.axes import ABSENT, axis_of, number_axis
from finetune_trainer.summary.plots.figure import BEST, png_of, value_range
from unit.trainer.summary.searches import BATCH, NAME, RATE, history, trial

TRIALS = [
    trial(1, 0.6),
    trial(2, 0.5),
    trial(3, 0.8),
    trial(4, 0.3, "Pruned"),
    trial(5, None, "Failed"),
    trial(6, 0.7),
]


def drawn(draw, *trials, **changes):
    """The axes of a plot, after it was encoded as for the report."""
    found = []

    def looked(made):
        found.append(draw(made))
        return found[0]

    assert png_of(looked, history(*trials, **changes)).startswith(b"\x89PNG")
    (axes,) = found[0].axes
    return axes


def lines(axes, label):
    return [list(zip(*line.get_data(), strict=True)) for line in axes.lines if line.get_label() == label]


def points(axes):
    """By the label of the legend."""
    return {each.get_label(): [tuple(p) for p in each.get_offsets().tolist()] for each in axes.collections}


def test_the_history_has_a_mark_for_each_trial_and_the_best_so_far():
    axes = drawn(history_plot.draw, *TRIALS)
    marks = points(axes)
    assert marks["succeeded"] == [(1, 0.6), (2, 0.5), (3, 0.8), (6, 0.7)]
    assert marks["pruned"] == [(4, 0.3)]
    assert marks["failed"] == [(5, axes.get_ylim()[0])]
    assert lines(axes, "best so far") == [[(1, 0.6), (2, 0.6), (3, 0.8), (6, 0.8), (6, 0.8)]]
    assert lines(axes, "best: trial 3") == [[(3, 0.8)]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("trial", "eval_accuracy")


COMBINED = {
    "combine": "AverageProbabilities",
    "metric": "eval_accuracy",
    "members": 3,
    "used": 2,
    "combined": 0.95,
    "gain": 0.15,
    "published": "Combination",
}


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "ensemble of 2: 0.95 (gain +0.15)"),
        ({"gain": None}, "ensemble of 2: 0.95"),
        ({"metric": "test_accuracy"}, None),
        ({"metric": "eval_f1"}, None),
        ({"combined": None}, None),
    ],
)
def test_the_history_has_the_ensemble_where_it_is_compared_on_the_same_rows_by_the_same_metric(
    changes, label
):
    combination = CombinationStatus.model_validate(COMBINED | changes)
    axes = drawn(partial(history_plot.draw, combination=combination), *TRIALS)
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [line.get_label() for line in dashed] == ([label] if label else [])
    if label:
        assert set(dashed[0].get_ydata()) == {0.95}
        assert axes.get_ylim()[1] > 0.95
        assert label in [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_history_of_a_loss_goes_down_and_failures_are_above():
    axes = drawn(history_plot.draw, *TRIALS, metric="loss", best=2)
    assert lines(axes, "best so far") == [[(1, 0.6), (2, 0.5), (3, 0.5), (6, 0.5), (6, 0.5)]]
    assert points(axes)["failed"] == [(5, axes.get_ylim()[1])]


def test_a_value_far_beyond_the_others_is_at_the_edge_and_counted():
    trials = [*(trial(n, n / 100) for n in range(1, 20)), trial(20, 1e6)]
    axes = drawn(history_plot.draw, *trials, metric="loss", best=1)
    assert axes.get_ylim()[1] < 1
    assert points(axes)["succeeded"][-1] == (20, axes.get_ylim()[1])
    assert axes.get_ylabel() == "loss (1 beyond the edge)"


def test_only_bad_values_are_beyond_the_edge():
    values = [*[1.0 + n / 100 for n in range(20)], 50.0, -50.0]
    assert value_range(values, maximize=True) == (1.0, 50.0)
    assert value_range(values, maximize=False) == (-50.0, 1.19)
    assert value_range([1.0, 1e9], maximize=False) == (1.0, 1e9)
    assert value_range([2.0] * 20, maximize=True) == (2.0, 2.0)


def test_a_repeated_trial_has_its_mean_and_spread():
    confirmed = [
        {"number": 3, "runs": 3, "mean": 0.78, "spread": 0.01},
        {"number": 1, "runs": 1, "mean": 0.6},
    ]
    axes = drawn(history_plot.draw, *TRIALS, confirmed=confirmed)
    (bars,) = axes.containers
    data, _, (segments,) = bars
    assert list(zip(*data.get_data(), strict=True)) == [(3, 0.78), (1, 0.6)]
    assert [tuple(point) for point in segments.get_segments()[0]] == [(3, 0.77), (3, 0.79)]


def test_the_learning_curves_have_every_evaluation_and_the_rungs():
    trials = [
        trial(1, 0.6, evaluations=[[2, 0.6], [1, 0.5], [3, 0.55]]),
        trial(2, 0.7, evaluations=[[1, 0.6], [3, 0.7]]),
        trial(3, 0.2, "Pruned", evaluations=[[1, 0.2]]),
        trial(4, None, "Failed"),
    ]
    axes = drawn(learning_curves.draw, *trials, rungs=[1.0, 3.0, 9.0])
    assert lines(axes, "succeeded") == [[(1, 0.5), (2, 0.6), (3, 0.55)]]
    assert lines(axes, "best: trial 2") == [[(1, 0.6), (3, 0.7)]]
    assert lines(axes, "pruned") == [[(1, 0.2)]]
    dotted = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted == [1.0, 3.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "succeeded",
        "pruned",
        "best: trial 2",
    ]


def test_evaluations_that_found_no_room_are_said():
    assert drawn(learning_curves.draw, *TRIALS).get_xlabel() == "epoch"
    said = drawn(learning_curves.draw, *TRIALS, evaluationsKept=2).get_xlabel()
    assert said == "epoch (at most 2 evaluations of each trial)"


def test_the_importances_are_bars_from_the_most_important_on_top():
    axes = drawn(importances.draw, trial(1, 0.5), importances={RATE: 0.7, BATCH: 0.05, NAME: 0.25})
    (bars,) = axes.containers
    assert [bar.get_width() for bar in bars] == pytest.approx([5, 25, 70])
    assert [label.get_text() for label in axes.get_yticklabels()] == [BATCH, NAME, RATE]


def test_a_line_of_parallel_coordinates_goes_through_its_values_and_the_best_is_on_top():
    trials = [
        trial(1, 0.5, parameters={RATE: 1e-5, NAME: "AdamW"}),
        trial(2, 0.9, parameters={RATE: 1e-3, NAME: "SGD", "training.optimizer.momentum": 0.9}),
        trial(3, 0.7, parameters={RATE: 1e-4, NAME: "SGD", "training.optimizer.momentum": 0.5}),
        trial(4, None, "Failed", parameters={RATE: 1e-2, NAME: "SGD"}),
    ]
    axes = drawn(parallel.draw, *trials)
    paths = [line for line in axes.lines if len(line.get_xdata()) == 4]
    heights = [[round(float(y), 6) for y in line.get_ydata()] for line in paths]
    assert heights == [[0, 0, -0.12, 0], [1, 1, 1, 1], [0.5, 1, 0, 0.5]]
    (best,) = (line for line in paths if line.get_color() == BEST)
    assert list(best.get_ydata()) == [1, 1, 1, 1]
    assert best.get_zorder() > max(line.get_zorder() for line in paths if line is not best)
    texts = [text.get_text() for text in axes.texts]
    assert texts[0] == "optimizer.learningRate"
    assert {"1e-05", "0.001", "AdamW", "SGD", "not searched", "eval_accuracy"} <= set(texts)


def test_texts_of_a_user_are_no_formulas():
    formula = "$\\frac$"
    axes = drawn(parallel.draw, trial(1, 0.5, parameters={f"training.{formula}": formula}))
    assert [text.get_text() for text in axes.texts].count(formula) == 2


def test_the_best_loss_is_at_the_top_of_the_last_axis():
    axes = drawn(parallel.draw, trial(1, 0.2), trial(2, 0.9), metric="loss", best=1)
    paths = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert [line.get_ydata()[-1] for line in paths] == [1, 0]


def test_more_important_fields_come_first():
    axes = drawn(parallel.draw, trial(1, 0.5), importances={BATCH: 0.9, RATE: 0.1})
    names = [text.get_text() for text in axes.texts if text.get_fontweight() == "bold"]
    assert names == ["batchSize", "optimizer.learningRate", "eval_accuracy"]


@pytest.mark.parametrize(
    ("values", "logarithmic", "places", "ticks"),
    [
        ([1e-5, 1e-3, 1e-4], True, [0, 1, 0.5], ["1e-05", "0.0001", "0.001"]),
        ([16, 64, 32], False, [0, 1, 1 / 3], ["16", "32", "64"]),
        ([0, 1e-3], True, [0, 1], ["0", "0.001"]),
        ([5, 5], False, [0.5, 0.5], ["5"]),
        ([True, False], False, [1, 0], ["false", "true"]),
        (["b", ABSENT, "a"], False, [1, None, 0], ["a", "b"]),
        ([None, 3, [1]], False, [1, 0, 0.5], ["3", "[1]", "null"]),
        ([{"b": 2, "a": 1}, {"a": 1, "b": 2}], False, [0.5, 0.5], ['{"a": 1, "b": 2}']),
        ([1, "1"], False, [1, 0], ['"1"', "1"]),
    ],
)
def test_places_on_an_axis(values, logarithmic, places, ticks):
    axis = axis_of(values, logarithmic=logarithmic)
    assert axis.places == pytest.approx(places) if None not in places else axis.places == places
    assert [text for _, text in axis.ticks] == ticks


def test_an_axis_of_many_values_has_ticks_with_room_between_them():
    for values in ([n / 7 for n in range(200)], [f"value {n:03}" for n in range(64)]):
        ticks = [place for place, _ in axis_of(values, logarithmic=False).ticks]
        assert 4 <= len(ticks) <= 15
        assert min(b - a for a, b in pairwise(ticks)) >= 0.069


def test_a_result_beyond_the_limits_is_at_the_end_of_its_axis():
    assert number_axis([0.1, 0.5, 99.0], (0.1, 0.5)).places == [0, 1, 1]
