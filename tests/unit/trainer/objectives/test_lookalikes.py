"""Labels that differ only by accident."""

import pytest

from finetune_trainer.objectives.lookalikes import look_alikes, missing_values, no_label, shown


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ("neg ", "white space"),
        ("neg\u200b", "invisible"),
        ("\ufeffneg", "invisible"),
        ("Neg", "case"),
        ("ｎeg", "Unicode form"),
    ],
)
def test_two_labels_that_look_alike_are_a_pair(other, difference):
    ((one, second, why),) = look_alikes(["neg", other, "pos"])
    assert {one, second} == {"neg", other}
    assert difference in why


def test_unicode_forms_and_numbers_are_pairs_and_others_are_none():
    assert look_alikes(["caf\u00e9", "cafe\u0301"])[0][2].endswith("Unicode form")
    assert [pair[:2] for pair in look_alikes(["1", "01", "1.0", "2"])] == [("1", "01"), ("1", "1.0")]
    assert look_alikes(["1", "10", "-1", "a b", "ab c", "B-PER", "I-PER", "true", "1.5"]) == []


def test_labels_that_stand_for_nothing_are_found():
    assert missing_values(["pos", "NA", "nan", " ", "Null", "none of these"]) == ["NA", "nan", " ", "Null"]


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (["-1", "0", "1"], True),
        (["-2", "-1", "0", "1", "2"], False),
        (["-1", "1"], False),
        (["-1", "0", "a"], False),
    ],
)
def test_minus_one_beside_zero_may_mean_no_label(labels, found):
    assert no_label(labels) is found


def test_what_cannot_be_seen_is_shown_escaped():
    assert [shown(label) for label in ("neg ", "neg\u200b", "café")] == ["'neg '", "'neg\\u200b'", "'café'"]
