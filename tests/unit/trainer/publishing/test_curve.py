"""The learning curve shows the numbers of the history: a picture without lines would be one too."""

import json

import pytest

from finetune_api.run import ExitCode
from finetune_trainer.publishing.curve import draw_curve

HISTORY = [
    {"event": "train", "step": 1, "loss": 0.9},
    {"event": "train", "step": 2, "loss": 0.7},
    {"event": "evaluation", "step": 2, "eval_loss": 0.8, "eval_accuracy": 0.5},
    {"event": "train", "step": 3, "loss": None},
    {"event": "evaluation", "step": 4, "eval_loss": 0.6, "eval_accuracy": 0.75},
]
TRAINING, VALIDATION = ("training", [(1, 0.9), (2, 0.7)]), ("validation", [(2, 0.8), (4, 0.6)])


@pytest.fixture
def saved(monkeypatch):
    """The axes of the figures that are written as pictures, with what each line shows."""
    from matplotlib.figure import Figure

    found, save = [], Figure.savefig

    def look(figure, *arguments, **options):
        found.append({axis.get_ylabel(): shown(axis) for axis in figure.axes})
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", look)
    return found


def shown(axis):
    """Label and points of every line that can be seen, all within the axes."""
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    lines = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axis.lines}
    assert all(line.get_visible() and line.get_color() != "white" for line in axis.lines)
    assert all(left <= x <= right and low <= y <= high for points in lines.values() for x, y in points)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(lines)
    return lines


@pytest.mark.parametrize("metric", ["loss", "eval_loss"])
def test_both_losses_share_the_axes(saved, tmp_path, metric):
    draw_curve(tmp_path / "curve.png", HISTORY, metric)
    assert saved == [{"loss": dict([TRAINING, VALIDATION])}]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_another_deciding_metric_has_axes_of_its_own(saved, tmp_path):
    draw_curve(tmp_path / "curve.png", HISTORY, "accuracy")
    assert saved == [
        {"loss": dict([TRAINING, VALIDATION]), "accuracy": {"validation": [(2, 0.5), (4, 0.75)]}}
    ]


def test_the_curve_of_a_run_has_the_values_of_its_history(saved, make_job):
    made = make_job(training={"evaluation": {"bestMetric": "accuracy"}})
    assert made.run() == ExitCode.DONE
    entries = [json.loads(line) for line in (made.model_dir / "metrics.jsonl").read_text().splitlines()]
    train = [(entry["step"], entry["loss"]) for entry in entries if entry["event"] == "train"]
    evaluations = [entry for entry in entries if entry["event"] == "evaluation"]
    assert (len(train), len(evaluations)) == (12, 2)
    (axes,) = saved
    assert axes["loss"]["training"] == train
    assert axes["loss"]["validation"] == [(entry["step"], entry["eval_loss"]) for entry in evaluations]
    assert axes["accuracy"]["validation"] == [
        (entry["step"], entry["eval_accuracy"]) for entry in evaluations
    ]
