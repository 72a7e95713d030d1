"""The learning curve shows the numbers of the history: a picture without lines would be one too."""

import json

import pytest

from finetune_api.run import ExitCode
from finetune_trainer.publishing.curve import draw_curve, smoothed

HISTORY = [
    {"event": "train", "step": 1, "loss": 0.9},
    {"event": "train", "step": 2, "loss": 0.7},
    {"event": "evaluation", "step": 2, "eval_loss": 0.8, "eval_accuracy": 0.5},
    {"event": "train", "step": 3, "loss": None},
    {"event": "evaluation", "step": 4, "eval_loss": 0.6, "eval_accuracy": 0.75},
    {"event": "evaluation", "step": 6, "eval_loss": 0.7, "eval_accuracy": 0.75},
]
TRAINING, VALIDATION = ("training", [(1, 0.9), (2, 0.7)]), ("validation", [(2, 0.8), (4, 0.6), (6, 0.7)])


@pytest.fixture
def saved(monkeypatch):
    """The axes of the figures that are written as pictures, by what stands at their side."""
    from matplotlib.figure import Figure

    found, save = [], Figure.savefig

    def look(figure, *arguments, **options):
        found.append({axis.get_ylabel(): axis for axis in figure.axes})
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", look)
    return found


def lines(axis):
    """Label and points of every line in the legend that connects points, all within the axes."""
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    drawn = {
        line.get_label(): list(zip(*line.get_data(), strict=True))
        for line in named(axis)
        if not upright(line)
    }
    assert all(line.get_visible() and line.get_color() != "white" for line in axis.lines)
    assert all(left <= x <= right and low <= y <= high for points in drawn.values() for x, y in points)
    return drawn


def named(axis):
    shown = [text.get_text() for text in axis.get_legend().get_texts()]
    found = [line for line in axis.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in found] == shown
    return found


def upright(line):
    return list(line.get_ydata()) == [0, 1] and len(set(line.get_xdata())) == 1


def marks(axis):
    """The steps of the vertical lines, and their labels in the legend."""
    steps = [line.get_xdata()[0] for line in axis.lines if upright(line)]
    return steps, [line.get_label() for line in named(axis) if upright(line)]


def stars(axis):
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines if line.get_marker() == "*"]


@pytest.mark.parametrize("metric", ["loss", "eval_loss"])
def test_both_losses_share_the_axes_and_the_smallest_has_a_star(saved, tmp_path, metric):
    draw_curve(tmp_path / "curve.png", HISTORY, metric)
    (axes,) = saved
    assert {side: lines(axis) for side, axis in axes.items()} == {"loss": dict([TRAINING, VALIDATION])}
    assert stars(axes["loss"]) == [(4, 0.6)]
    assert marks(axes["loss"]) == ([4], ["best loss: 0.6 at step 4"])
    assert axes["loss"].get_xlabel() == "optimizer step"
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_another_best_metric_has_its_own_axes_with_the_star(saved, tmp_path):
    draw_curve(tmp_path / "curve.png", HISTORY, "accuracy")
    (axes,) = saved
    assert {side: lines(axis) for side, axis in axes.items()} == {
        "loss": dict([TRAINING, VALIDATION]),
        "accuracy": {"validation": [(2, 0.5), (4, 0.75), (6, 0.75)]},
    }
    assert (stars(axes["loss"]), stars(axes["accuracy"])) == ([], [(4, 0.75)])
    assert marks(axes["loss"]) == ([4], [])
    assert marks(axes["accuracy"]) == ([4], ["best accuracy: 0.75 at step 4"])


def test_an_early_stop_is_marked(saved, tmp_path):
    draw_curve(tmp_path / "curve.png", HISTORY, "accuracy", stopped_at=6)
    (axes,) = saved
    assert marks(axes["loss"])[0] == [4, 6]
    assert marks(axes["accuracy"]) == ([4, 6], ["best accuracy: 0.75 at step 4", "early stop at step 6"])


def test_a_history_without_evaluations_has_no_best(saved, tmp_path):
    draw_curve(tmp_path / "curve.png", HISTORY[:2], "accuracy")
    (axes,) = saved
    assert [(marks(axis), stars(axis)) for axis in axes.values()] == [(([], []), [])] * 2


def test_many_training_losses_are_smoothed_over_the_raw_ones(saved, tmp_path):
    noisy = [{"event": "train", "step": step, "loss": 1.0 + 0.5 * (-1) ** step} for step in range(1, 41)]
    draw_curve(tmp_path / "curve.png", noisy, "loss")
    ((axis,),) = (axes.values() for axes in saved)
    drawn = lines(axis)
    assert drawn["training, raw"] == [(entry["step"], entry["loss"]) for entry in noisy]
    assert max(abs(loss - 1.0) for _, loss in drawn["training, smoothed"][10:]) < 0.2
    faint = {line.get_label(): line.get_alpha() for line in named(axis)}
    assert faint["training, raw"] < 0.5
    assert faint["training, smoothed"] is None


def test_smoothing_keeps_the_first_value_and_a_constant():
    assert smoothed([(1, 3.0), (2, 5.0)])[0] == (1, 3.0)
    assert [round(value, 12) for _, value in smoothed([(step, 0.25) for step in range(50)])] == [0.25] * 50
    assert smoothed([]) == []


def test_the_curve_of_a_run_has_the_values_of_its_history_and_its_early_stop(saved, make_job):
    training = {
        "epochs": 4,
        "optimizer": {"learningRate": 1e-9},
        "evaluation": {"bestMetric": "accuracy"},
        "earlyStopping": {"patience": 1},
    }
    made = make_job(training=training)
    assert made.run() == ExitCode.DONE
    entries = [json.loads(line) for line in (made.model_dir / "metrics.jsonl").read_text().splitlines()]
    train = [(entry["step"], entry["loss"]) for entry in entries if entry["event"] == "train"]
    evaluations = [entry for entry in entries if entry["event"] == "evaluation"]
    assert (len(train), len(evaluations)) == (12, 2)
    (axes,) = saved
    loss, accuracy = lines(axes["loss"]), lines(axes["accuracy"])
    assert loss["training, raw"] == train
    assert loss["validation"] == [(entry["step"], entry["eval_loss"]) for entry in evaluations]
    assert accuracy["validation"] == [(entry["step"], entry["eval_accuracy"]) for entry in evaluations]
    assert "early stop at step 12" in marks(axes["accuracy"])[1]
