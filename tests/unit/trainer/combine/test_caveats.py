"""Members that can be combined, but seldom are on purpose, are said in the last message."""

import json

import pytest

from finetune_api.run import ExitCode
from unit.trainer.tiny import reviews, write_jsonl


def message_of(combined):
    code, report, folder = combined
    assert code == ExitCode.DONE, report.message
    assert all(note in report.message for note in report.notes)
    assert json.loads((folder / "run.json").read_text())["report"].get("notes", []) == report.notes
    return "; ".join(report.notes)


def test_a_model_that_is_listed_twice_is_said(combine, alike, held_out):
    """Also for members whose override changed nothing: their folders differ, their weights do not."""
    caveat = "members.0, members.2 have the same weights, so this model counts 2 times"
    members = [alike[0], alike[1], alike[0]]
    assert caveat in message_of(combine(members, "AverageProbabilities", dataset=held_out))


def test_members_that_differ_are_not_doubted(combine, alike, held_out):
    message = message_of(combine(alike, "AverageProbabilities", dataset=held_out))
    assert "members." not in message


@pytest.mark.parametrize(
    ("changes", "caveat"),
    [
        (
            {"preprocessing": {"maxLength": 4}},
            "dataset.preprocessing.maxLength is 4, and members.0, members.1, members.2 were trained with 32",
        ),
        (
            {"preprocessing": {"maxLength": 32, "lowercase": True}},
            "dataset.preprocessing.lowercase is true, and members.0, members.1, members.2 were trained with false",
        ),
        (
            {"columns": {"textPair": "review_id"}},
            "dataset.columns.textPair is set, and members.0, members.1, members.2 were trained with unset",
        ),
    ],
)
def test_texts_that_are_read_otherwise_than_in_training_are_said(combine, alike, held_out, changes, caveat):
    assert caveat in message_of(combine(alike, "Vote", dataset=held_out | changes))


def test_training_texts_in_the_rows_of_the_evaluation_are_said(combine, alike, held_out, tmp_path):
    """The files differ in one row, so that they have other digests."""
    rows = write_jsonl(tmp_path / "rows.jsonl", [*reviews(63), *reviews(1, start=2000)])
    dataset = {"train": held_out["train"], "validation": {"path": str(rows)}}
    message = message_of(combine(alike, "Vote", dataset=dataset))
    assert message.startswith("63 of 64 validation texts also stand in dataset.train, so members")


def test_a_soup_that_says_nothing_of_its_training_rows_is_said(combine, alike, held_out):
    """It was averaged with a test file alone: whether its members were trained on these rows is not written in it."""
    _, _, soup = combine(alike, "AverageWeights", name="soup")
    message = message_of(combine([alike[0], soup], "Vote"))
    assert "members.1 has no record of the training rows: whether the rows of the evaluation are" in message
    _, _, known = combine(alike, "AverageWeights", name="known", dataset=held_out)
    assert "no record" not in message_of(
        combine([alike[0], known], "Vote", dataset=held_out, name="held out")
    )
