"""From files to batches: reading, cleaning, duplicates, splits, length buckets."""

import json
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.dataset import ColumnsSpec, Deduplicate, PreprocessingSpec
from finetune_api.run import DataInput, ValidationSplit
from finetune_trainer.config import read_config
from finetune_trainer.data.batching import epoch_batches, evaluation_batches, micro_batches, steps_per_epoch
from finetune_trainer.data.cleaning import cleaner
from finetune_trainer.data.dataset import read_dataset
from finetune_trainer.data.deduplicate import Deduplicator
from finetune_trainer.data.records import Record, RowError, read_csv, read_jsonl
from finetune_trainer.data.rows import ReadOptions, Row
from finetune_trainer.data.sources import scan, shared_texts
from finetune_trainer.data.splits import split_rows
from finetune_trainer.errors import DataError
from finetune_trainer.objectives.labels import label_text
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.shipped.preprocessing import collapse_whitespace, strip_markup
from unit.trainer.logs import messages
from unit.trainer.tiny import reviews, write_jsonl


def options(**changes):
    fields = {
        "columns": ColumnsSpec(),
        "preprocessing": PreprocessingSpec(),
        "max_invalid_rows": "0",
        "read_label": label_text,
    }
    return ReadOptions(**fields | changes)


def source(path, duplicates=None, **changes):
    data, how = DataInput(path=str(path), uri=f"pvc://data/{path.name}"), options(**changes)
    return scan("dataset.train", data, how, duplicates or Deduplicator(how.preprocessing.deduplicate))


def test_jsonl_keeps_line_numbers_over_empty_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n{"text": "b"}')
    assert list(read_jsonl(path)) == [Record(1, {"text": "a"}), Record(3, {"text": "b"})]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"text": "\xff"}', "is not UTF-8 (byte 11 of the line is 0xFF)"),
        (b'{"text": ', "is not JSON: Expecting value, character 10"),
        (b'["a"]', 'is not a JSON object but ["a"]'),
        (b"[" * 100_000, "has lists or objects nested too deeply"),
        (b'{"a": %s}' % (b"9" * 5000), "has a number of more than 4,300 digits"),
        (b'{"text": "a \\uD83D"}', "has half a character"),
        (b'{"\\udc00": "a"}', "has half a character"),
        (b'{"text": "a"},', "is not JSON: Extra data, character 14; remove the comma at the end of the line"),
        (b'{"text": "a"}{"text": "b"}', "is not JSON: Extra data, character 14; write one object per line"),
        (
            b"{'text': 'a'}",
            "is not JSON: Expecting property name enclosed in double quotes, character 2; JSON has",
        ),
        (b'{"text": None}', "is not JSON: Expecting value, character 10; JSON has null, true and false"),
        (b'"\\ud83d"', "has half a character"),
    ],
)
def test_a_line_that_is_no_json_object_says_what_it_is(tmp_path, line, why):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    _, error = read_jsonl(path)
    assert isinstance(error, RowError)
    assert error.line == 2
    assert error.reason.startswith(why)


def test_csv_counts_lines_not_rows_where_a_field_has_line_breaks(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"two\nlines",pos\nplain,neg\nonly one\n')
    assert list(read_csv(path)) == [
        Record(2, {"text": "two\nlines", "label": "pos"}),
        Record(4, {"text": "plain", "label": "neg"}),
        RowError(5, "has 1 fields where the header has 2"),
    ]


def test_a_character_written_as_two_escapes_is_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "\\ud83d\\ude00 \\u00e9"}\n')
    assert list(read_jsonl(path)) == [Record(1, {"text": "\U0001f600 \u00e9"})]


@pytest.mark.parametrize("header", ['"te"xt,label', '"text,label'])
@pytest.mark.parametrize("allowed", ["0", "10", "100%"])
def test_a_header_that_is_not_csv_is_named(tmp_path, header, allowed):
    path = tmp_path / "a.csv"
    path.write_text(header + "\nfine,pos\n")
    with pytest.raises(DataError, match=r"a\.csv, row 1 is the header and not CSV: .*; fix the quoting"):
        source(path, max_invalid_rows=allowed)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("text,label\rfine,pos\r", "row 1 is the header and not CSV: its lines end with a carriage return"),
        ("\ntext,label\nfine,pos\n", "row 1 is empty and no header; begin the file with the names"),
    ],
)
def test_a_header_that_is_not_where_it_belongs_is_told_as_that(tmp_path, text, told):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    with pytest.raises(DataError, match=told):
        source(path)


@pytest.mark.parametrize("allowed", ["1", "100%"])
def test_a_quote_that_is_never_closed_is_refused_whatever_is_tolerated(tmp_path, allowed):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "fine,pos\n" * 4 + '"dull,neg\n' + "fine,pos\n" * 20)
    with pytest.raises(
        DataError, match=r"a\.csv, row 6 opens a quote .* hides lines 6 to 26; fix the quoting"
    ) as caught:
        source(path, max_invalid_rows=allowed)
    assert caught.value.place.row == 6


@pytest.mark.parametrize(("allowed", "raises"), [("3", True), ("4", False), ("39%", True), ("40%", False)])
def test_every_line_that_a_stray_quote_hides_is_an_invalid_row(tmp_path, allowed, raises):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "fine,pos\n" * 3 + '"dull,neg\nfine,pos\nfine,pos\nso "dull",neg\n')
    path.write_text(path.read_text() + "fine,pos\n" * 3)
    if raises:
        with pytest.raises(DataError, match=r"a\.csv, row 5 is not CSV: .* \(4 rows cannot be used"):
            source(path, max_invalid_rows=allowed)
        return
    found = source(path, max_invalid_rows=allowed).resolved
    assert (found.rows, found.invalid_rows) == (6, 4)


def test_csv_that_is_not_utf8_names_the_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\nfine,pos\nbad \xe9,neg\nfine,pos\n")
    error = list(read_csv(path))[1]
    assert (error.line, error.column, error.reason) == (
        3,
        "text",
        "is not UTF-8 (byte 5 of the line is 0xE9); as cp1252 it reads 'bad é,neg': if that is right, convert the"
        " file with iconv -f cp1252 -t utf-8",
    )


def test_a_wrong_column_lists_the_columns_that_are_there(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("review,label\nfine,pos\n")
    with pytest.raises(DataError) as caught:
        source(path)
    assert caught.value.message == (
        "pvc://data/a.csv, row 2, column text is missing; available columns: 'review', 'label'; did you mean 'review'?"
        " Columns are named in dataset.columns"
    )
    assert caught.value.place.model_dump() == {
        "field": "dataset.train",
        "file": "pvc://data/a.csv",
        "row": 2,
        "column": "text",
    }


def rows_file(tmp_path, *texts):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": "x"}) + "\n" for text in texts))
    return path


@pytest.mark.parametrize(
    ("allowed", "raises"), [("0", True), ("1", True), ("2", False), ("39%", True), ("40%", False)]
)
def test_bad_rows_are_tolerated_up_to_the_limit_and_the_first_is_named(tmp_path, allowed, raises):
    path = rows_file(tmp_path, "a", "", "b", None, "c")
    if not raises:
        found = source(path, max_invalid_rows=allowed).resolved
        assert (found.rows, found.invalid_rows, found.duplicate_rows) == (3, 2, 0)
        return
    with pytest.raises(DataError, match=r"a\.jsonl, row 2, column text is empty") as caught:
        source(path, max_invalid_rows=allowed)
    assert (caught.value.place.row, caught.value.place.column) == (2, "text")


def texts(scan):
    return [row.text for row in scan.source.rows]


def test_repeated_texts_are_dropped_within_and_between_files(tmp_path):
    exact = PreprocessingSpec(deduplicate="Exact", collapse_whitespace=True)
    duplicates = Deduplicator(exact.deduplicate)
    path = rows_file(tmp_path, "a  b", "a b", "c")
    train = source(path, duplicates, preprocessing=exact)
    assert texts(train) == ["a b", "c"]
    assert (train.resolved.rows, train.resolved.duplicate_rows) == (2, 1)
    held_out = source(rows_file(tmp_path, "c", "d"), duplicates, preprocessing=exact)
    assert texts(held_out) == ["d"]
    assert shared_texts(train, held_out) == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=4))
def test_only_the_first_of_equal_texts_is_new_over_any_number_of_files(files):
    duplicates, seen = Deduplicator(Deduplicate.EXACT), set()
    for digests in files:
        expected = [digest not in seen and not seen.add(digest) for digest in digests]
        assert duplicates.is_new(np.array(digests, dtype=np.uint64)).tolist() == expected


def test_texts_on_both_sides_are_counted(tmp_path):
    train = source(rows_file(tmp_path, "a", "b", "b"))
    assert shared_texts(train, source(rows_file(tmp_path, "b", "c", "b"))) == 2


LEAKING = {
    "validation": "2 of 4 validation texts also stand in the training rows",
    "test": "1 of 3 test texts also stand in the training rows",
}


@pytest.mark.parametrize(("kind", "expected"), [("None", LEAKING), ("Exact", {})])
def test_texts_that_a_split_puts_on_both_sides_are_warned_of_and_left_out_where_asked(
    make_job, kind, expected
):
    """Of four validation rows the split takes two from the ten whose text is the same."""
    same = [{"text": "it is dull", "label": "neg"}] * 10
    others = [{"text": f"it is good {number}", "label": "pos"} for number in range(10)]
    made = make_job(rows=same + others)
    test = write_jsonl(made.folder / "test.jsonl", [same[0], *reviews(2)])
    made = made.changed(
        {
            "dataset": {
                "split": {"fraction": 0.2},
                "test": {"path": str(test)},
                "preprocessing": {"deduplicate": kind},
            }
        }
    )
    lines = messages()
    recorder = Recorder()
    read_dataset(read_config(made.write(), {}), recorder)
    caveats = [caveat for caveat in recorder.caveats if "also stand in the training rows" in caveat]
    assert [caveat.split(", which")[0] for caveat in caveats] == list(expected.values())
    assert all(caveat.endswith("set dataset.preprocessing.deduplicate: Exact") for caveat in caveats)
    left_out = [line.count(" 9 duplicates") for line in lines if line.startswith("training")]
    assert left_out == [kind == "Exact"]


def test_labels_that_only_repeated_rows_had_are_told_of(make_job):
    rows = [{"text": "it is good", "label": label} for label in ("pos", "neg")]
    made = make_job(rows=rows, dataset={"preprocessing": {"deduplicate": "Exact"}})
    with pytest.raises(DataError, match=r"one label only, 'pos'; .*; 1 duplicates were dropped \(dataset"):
        read_dataset(read_config(made.write(), {}), Recorder())


def read(made, **dataset):
    """The data set of a job, its caveats, and what was logged."""
    said, recorder = messages(), Recorder()
    found = read_dataset(read_config(made.changed({"dataset": dataset}).write(), {}), recorder)
    return found, recorder.caveats, said


@pytest.mark.parametrize(
    ("other", "caveat"),
    [
        (
            "neg ",
            "the labels 'neg' (30 rows) and 'neg ' (30 rows) differ only in white space, invisible characters",
        ),
        (
            "neg\u200b",
            "the labels 'neg' (30 rows) and 'neg\\u200b' (30 rows) differ only in white space, invisible",
        ),
        (
            "\ufeffneg",
            "the labels 'neg' (30 rows) and '\\ufeffneg' (30 rows) differ only in white space, invisible",
        ),
        ("NEG", "the labels 'NEG' (30 rows) and 'neg' (30 rows) differ only in case"),
        ("NA", "the label 'NA' (30 rows) looks like a missing value"),
    ],
)
def test_labels_that_look_alike_are_a_caveat_of_the_result(make_job, other, caveat):
    rows = [{"text": f"row {n}", "label": ["pos", "neg", other][n % 3]} for n in range(90)]
    made = make_job(rows=rows)
    _, caveats, said = read(made, split=None, validation={"path": str(made.folder / "train.jsonl")})
    assert [line for line in caveats if line.startswith(caveat)]
    assert [line for line in said if line.startswith(caveat)]


def test_labels_that_differ_have_no_caveat(make_job):
    _, caveats, _ = read(make_job())
    assert caveats == []


@pytest.mark.parametrize(
    ("train", "labels", "other"),
    [("1", "0, 1", "1.0"), (True, "false, true", "True"), ("neg", "neg, pos", "NEG ")],
)
def test_a_validation_label_that_training_lacks_names_both_files(make_job, train, labels, other):
    second = {"1": "0", True: False, "neg": "pos"}[train]
    made = make_job(rows=[{"text": f"row {n}", "label": [train, second][n % 2]} for n in range(20)])
    rows = [{"text": "a", "label": train}, {"text": "b", "label": other}]
    if train is True:
        rows = rows[1:]
    path = write_jsonl(made.folder / "val.jsonl", rows)
    with pytest.raises(DataError) as caught:
        read(made, split=None, validation={"path": str(path), "uri": "pvc://data/val.jsonl"})
    assert caught.value.message == (
        f"pvc://data/val.jsonl, row {len(rows)}, column label has the label {other!r}, which is not one of {labels},"
        " the labels found in pvc://data/train.jsonl; write all of them into objective's labels"
    )
    assert (caught.value.place.field, caught.value.place.row) == ("dataset.validation", len(rows))


def test_a_test_row_with_another_label_than_the_same_training_text_is_a_conflict(make_job):
    rows = reviews(40)
    other = {"pos": "neg", "neg": "pos"}
    made = make_job(rows=rows)
    path = write_jsonl(
        made.folder / "test.jsonl",
        [{"text": "new", "label": "pos"}, {**rows[6], "label": other[rows[6]["label"]]}],
    )
    found, _, said = read(
        made,
        test={"path": str(path), "uri": "pvc://data/test.jsonl"},
        preprocessing={"deduplicate": "Exact"},
    )
    assert (found.test.resolved.rows, found.test.resolved.conflicting_duplicates) == (1, 1)
    assert any("row 2 of pvc://data/test.jsonl and row 7 of pvc://data/train.jsonl" in line for line in said)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("text;label", "semicolons"),
        ("text\tlabel", "tabs"),
        ("text|label", "vertical bars"),
        ("text,label", None),
    ],
)
def test_a_separator_other_than_the_comma_is_logged(make_job, header, said):
    made = make_job()
    path = made.folder / "a.csv"
    path.write_text("\n".join([header, *(f"row {n}{header[4]}{'ab'[n % 2]}" for n in range(20))]))
    found, _, lines = read(made, train={"path": str(path), "uri": "pvc://data/a.csv"})
    assert len(found.train.rows) + len(found.validation.rows) == 20
    logged = [line for line in lines if "separate the fields" in line]
    assert logged == ([f"pvc://data/a.csv: the header shows that {said} separate the fields"] if said else [])


def test_duplicates_with_another_label_are_counted_and_one_is_named(tmp_path, caplog):
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [
            {"text": "b", "label": "x"},
            *({"text": "a", "label": label} for label in ("pos", "neg", "pos", "neg")),
        ],
    )
    found = source(path, preprocessing=PreprocessingSpec(deduplicate="Exact")).resolved
    assert (found.duplicate_rows, found.conflicting_duplicates) == (3, 2)
    assert "2 of the dropped duplicates have another label" in caplog.text
    assert "row 3 and row 2" in caplog.text


def test_skipped_rows_are_counted_by_reason_with_the_first_row_of_each(tmp_path, caplog):
    texts = ["a", None, "b", 3, None, "", ["c", "d"], 12, "e"]
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": text, "label": "x"} for text in texts])
    found = source(path, max_invalid_rows="90%").resolved
    assert [(each.rows, each.first_row, each.reason) for each in found.invalid_reasons] == [
        (2, 2, "column text is not a text but null"),
        (2, 4, "column text is not a text but a number"),
        (1, 6, "column text is empty"),
    ]
    assert (
        "1 rows: column text is not a text but a list of texts; write one text per row (first row 7)"
        in caplog.text
    )


def test_a_text_and_its_pair_are_told_apart():
    assert Row(1, "ab", "c", "x", None).digest() != Row(1, "a", "bc", "x", None).digest()


def test_cleaning_follows_the_documented_order():
    spec = PreprocessingSpec(unicode="NFKC", strip_markup=True, collapse_whitespace=True, lowercase=True)
    assert cleaner(spec)("<p>Ｆｉｎｅ&nbsp;film</p><p>A &lt; B</p>") == "fine film a < b"


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("a < b and c > d", "a < b and c > d"),
        ("one<br/>two", "one\ntwo"),
        ("x<script>alert(1)</script>y", "xy"),
        ("<b>bold</b>face", "boldface"),
        ("AT&amp;T &copy;", "AT&T ©"),
        ("<!-- a remark -->fine<!DOCTYPE html>", "fine"),
        ("<ul><li>a<li>b</ul>c", "a\nb\nc"),
        ("<div class='x'>cut off", "cut off"),
        ("x</div>y", "x\ny"),
    ],
)
def test_markup_goes_and_text_stays(markup, text):
    assert strip_markup(markup) == text


@pytest.mark.parametrize(
    "text",
    [
        "How do I use <script> tags in HTML?",
        "see <style> in css, then more text",
        "a <template> b",
        "List<String> items, Map<K, V>",
        "mail <user@example.org> now",
        "if a <b and c> d",
        "cp <source> <dest>",
        "a <!-- that never ends",
        "an <unknown-element>x</unknown-element>",
        "i <3 you, 1<2>0",
    ],
)
def test_what_is_no_closed_element_of_html_is_text(text):
    assert strip_markup(text) == text


def test_markup_that_never_closes_takes_linear_time():
    """In quadratic time the scripts alone take about half a minute."""
    began = time.process_time()
    for piece in ("<!--", "<script>", "<b ", '<b "', "<?php ", "<p>"):
        strip_markup(piece * 100_000)
    assert time.process_time() - began < 10


@settings(deadline=None)
@given(st.text())
def test_cleaning_a_clean_text_changes_nothing(text):
    clean = cleaner(PreprocessingSpec(unicode="NFC", collapse_whitespace=True))
    assert clean(clean(text)) == clean(text)
    assert collapse_whitespace(text) == collapse_whitespace(collapse_whitespace(text))


def rows(tmp_path, *labels, group=None):
    path = tmp_path / "rows.jsonl"
    lines = [
        json.dumps({"text": f"text {number}", "label": label, "group": group and group(number)})
        for number, label in enumerate(labels)
    ]
    path.write_text("\n".join(lines))
    return source(path, group_by=group and "group")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.integers(2, 60), st.floats(0.05, 0.9), st.integers(0, 5))
def test_groups_never_stand_on_both_sides(tmp_path, count, fraction, seed):
    all_rows = rows(tmp_path, *["x"] * (count + 2), group=lambda number: f"g{number // 2}")
    split = ValidationSplit(fraction=fraction, group_by="group")
    train, held_out, _ = split_rows(all_rows, split, seed, True)
    groups = [{row.group for row in part.source.rows} for part in (train, held_out)]
    assert not groups[0] & groups[1]
    assert all(groups)
    assert sorted([*train.lines, *held_out.lines]) == list(range(1, count + 3))


def test_a_stratified_split_keeps_the_proportions_and_depends_on_the_seed_alone(tmp_path):
    all_rows = rows(tmp_path, *["rare" if number % 10 == 0 else "common" for number in range(100)])
    split = ValidationSplit(fraction=0.2)
    train, held_out, how = split_rows(all_rows, split, 1, True)
    assert how == "with the labels' proportions"
    assert list(held_out.labels).count("rare") == 2
    assert split_rows(all_rows, split, 1, True)[1].lines.tolist() == held_out.lines.tolist()
    assert split_rows(all_rows, split, 2, True)[1].lines.tolist() != held_out.lines.tolist()
    assert len(train) == 80


def test_the_rows_that_are_held_out_follow_the_seed_of_the_split(make_job):
    """Trials with other seeds of training are evaluated on the same rows."""

    def held_out(training: int, split: int | None) -> list[str]:
        fields = {
            "dataset": {"split": {} if split is None else {"seed": split}},
            "training": {"seed": training},
        }
        made = make_job(rows=reviews(60)).changed(fields)
        validation = read_dataset(read_config(made.write(), {}), Recorder()).validation
        return [row.text for row in validation.rows]

    assert held_out(1, 5) == held_out(2, 5) == held_out(5, None)
    assert held_out(1, None) != held_out(2, None)


def test_a_label_too_rare_to_stratify_is_an_error_only_where_it_was_asked_for(tmp_path):
    all_rows = rows(tmp_path, "once", *["often"] * 19)
    told = "at random, as the label 'once' has one row only"
    assert split_rows(all_rows, ValidationSplit(), 0, True)[2] == told
    with pytest.raises(DataError, match="the label 'once' has one row only; remove stratify"):
        split_rows(all_rows, ValidationSplit(stratify=True), 0, True)


def test_labels_that_no_side_has_room_for_are_counted(tmp_path):
    pairs = rows(tmp_path, *[str(number // 2) for number in range(40)])
    told = "at random, as 4 rows on one side are too few for 20 labels"
    assert split_rows(pairs, ValidationSplit(), 0, True)[2] == told
    several = rows(tmp_path, "b", "a", *["often"] * 19)
    assert "as the labels a, b have one row each" in split_rows(several, ValidationSplit(), 0, True)[2]


def test_a_share_of_groups_is_a_share_of_their_rows(tmp_path):
    """One group of 51 rows and nine of one row: a tenth of the rows are six of the nine."""
    all_rows = rows(tmp_path, *["x"] * 60, group=lambda number: "large" if number < 51 else f"g{number}")
    _, held_out, how = split_rows(all_rows, ValidationSplit(fraction=0.1, group_by="group"), 0, True)
    assert len(held_out) == 6
    assert how == "by groups of group (10.0% held out, 10.0% wanted)"


def test_where_every_group_is_too_large_the_smallest_is_held_out_and_the_share_is_told(tmp_path):
    all_rows = rows(tmp_path, *["x"] * 10, group=lambda number: "a" if number < 7 else "b")
    _, held_out, how = split_rows(all_rows, ValidationSplit(fraction=0.1, group_by="group"), 0, True)
    assert (len(held_out), how) == (3, "by groups of group (30.0% held out, 10.0% wanted)")


@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_a_row_without_a_group_is_a_group_of_its_own(tmp_path, caplog, missing):
    caplog.set_level("INFO")
    all_rows = rows(tmp_path, *["x"] * 20, group=lambda number: missing if number < 19 else "g")
    assert len(set(all_rows.groups.tolist())) == 20
    assert "19 rows have no group; each is a separate group" in caplog.text


def test_one_group_cannot_be_split(tmp_path):
    all_rows = rows(tmp_path, "x", "y", group=lambda _: "g")
    with pytest.raises(DataError, match="at least two groups"):
        split_rows(all_rows, ValidationSplit(group_by="group"), 0, True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 64), min_size=1, max_size=400), st.integers(1, 33), st.integers(0, 3))
def test_every_epoch_has_every_example_once_and_depends_on_seed_and_epoch_alone(lengths, batch_size, epoch):
    lengths = np.array(lengths)
    batches = epoch_batches(lengths, batch_size, 5, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == steps_per_epoch(len(lengths), batch_size)
    again = epoch_batches(lengths, batch_size, 5, epoch)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def padding_share(lengths, batches):
    """Share of positions that are padding when each of these batches is padded to its longest example."""
    positions = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    return 1 - sum(int(lengths[batch].sum()) for batch in batches) / positions


def test_epochs_differ_and_length_buckets_save_most_of_the_padding():
    lengths = np.random.default_rng(0).integers(4, 64, size=2000)
    batches = epoch_batches(lengths, 32, 0, 0)
    assert not np.array_equal(batches[0], epoch_batches(lengths, 32, 0, 1)[0])
    order = np.random.default_rng(1).permutation(2000)
    unsorted = [order[i : i + 32] for i in range(0, 2000, 32)]
    assert padding_share(lengths, unsorted) > 0.4
    assert padding_share(lengths, batches) < 0.05


def test_micro_batches_are_slices_and_evaluation_begins_with_the_longest():
    assert [part.tolist() for part in micro_batches(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]
    lengths = np.array([3, 9, 5, 7])
    assert [batch.tolist() for batch in evaluation_batches(lengths, 3)] == [[1, 3, 2], [0]]


def test_excels_line_about_the_separator_is_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sep=;\ntext;label\na;pos\n")
    with pytest.raises(DataError, match="row 1 is Excel's line about the separator; remove it"):
        source(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.jsonl", "a.csv"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 8\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is an HTML page and not data"),
    ],
)
def test_what_a_download_left_in_place_of_a_file_is_named(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=what):
        source(tmp_path / name)


def test_a_label_that_pandas_lost_is_missing(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": NaN}\n')
    with pytest.raises(DataError, match=r"is missing \(NaN\); remove the row"):
        source(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("train", "validation", "caveat"),
    [
        (
            [("a", "x"), ("b", "y"), ("c", "x"), ("a", "y"), ("a", "x")],
            [("d", "x"), ("e", "y")],
            "dataset.train: 3 of 5 texts of pvc://d/train.jsonl also stand with another label, as in rows 1 and 4;",
        ),
        (
            [("a", "x"), ("b", "y")],
            [("d", "x"), ("d", "y")],
            "dataset.validation: 2 of 2 texts of pvc://d/validation.jsonl also stand with another label, as in rows 1",
        ),
        (
            [("a", "x"), ("b", "y")],
            [("d", "x"), ("e", "x")],
            "dataset.validation: all rows (2) have the label x, so that the evaluation says nothing of the others",
        ),
        ([("a", "x"), ("b", "y"), ("a", "x")], [("d", "x"), ("e", "y")], None),
    ],
)
def test_labels_that_contradict_each_other_and_rows_of_one_label_are_caveats(
    make_job, tmp_path, train, validation, caveat
):
    dataset = {
        part: {
            "path": str(
                write_jsonl(
                    tmp_path / f"{part}.jsonl", [{"text": text, "label": label} for text, label in rows]
                )
            ),
            "uri": f"pvc://d/{part}.jsonl",
        }
        for part, rows in (("train", train), ("validation", validation))
    }
    recorder = Recorder()
    made = make_job().changed({"dataset": {**dataset, "split": None}})
    read_dataset(read_config(made.write(), {}), recorder)
    assert len(recorder.caveats) == (caveat is not None)
    assert caveat is None or recorder.caveats[0].startswith(caveat)
