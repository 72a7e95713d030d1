"""JSON arrays: read object by object, whatever their size and form, and refused where rows would be lost."""

import gzip
import json
import tracemalloc

import pytest

from finetune_trainer.data.json_array import PIECE, read_json_array
from finetune_trainer.data.records import LONGEST_ROW, Record, RowError

ROWS = [
    {"text": f'a \u00e9\U0001f600 \\ "x" ]}}, {number}', "label": number, "deep": [{}]}
    for number in range(400)
]


def records(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_json_array(path))


def test_an_object_with_a_key_twice_is_one_bad_row(tmp_path):
    long = "x" * 3 * PIECE
    written = f'[{{"a": 1}}, {{"a": {{"b": 1, "b": 2}}, "c": "{long}"}}, {{"a": 3}}]'
    first, twice, last = records(tmp_path, written)
    assert (first, last) == (Record(1, {"a": 1}), Record(3, {"a": 3}))
    assert isinstance(twice, RowError)
    assert (twice.line, twice.fatal) == (2, False)
    assert "has the key 'b' more than once in an object" in twice.reason


@pytest.mark.parametrize(
    "written",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2, ensure_ascii=False),
        json.dumps(ROWS, separators=(",", ":")),
        "\ufeff\n " + json.dumps(ROWS, indent="\t").replace("\n", "\r\n") + "\n\n",
        "[" + "\n,".join(json.dumps(row) for row in ROWS) + "]",
    ],
)
def test_objects_of_an_array_are_rows_whatever_its_white_space(tmp_path, written):
    assert len(written) > PIECE / 4
    expected = [Record(number, row) for number, row in enumerate(ROWS, start=1)]
    assert records(tmp_path, written) == expected
    assert records(tmp_path, gzip.compress(written.encode())) == expected


@pytest.mark.parametrize("shift", range(12))
def test_a_value_may_be_cut_anywhere_by_the_pieces_of_the_file(tmp_path, shift):
    values = {"a": "\u00e9\\u00e9\\n", "b": -1.5e-3, "c": None, "d": True, "e": float("-inf")}
    row = json.dumps(values, ensure_ascii=False)
    written = "[" + " " * (PIECE - 30 + shift * 7) + f"{row},{row}]"
    assert records(tmp_path, written) == [Record(1, values), Record(2, values)]


def test_an_empty_array_has_no_rows(tmp_path):
    assert records(tmp_path, " [ ] ") == []


@pytest.mark.parametrize(
    ("written", "rows", "why"),
    [
        ('[{"a": 1}, {"a": 2}', 2, "is missing: the file ends before its array does; it is truncated"),
        ('[{"a": 1}, {"a": "x', 1, "is incomplete: the file ends within it; it is truncated"),
        ('[{"a": 1},', 1, "is incomplete: the file ends within it; it is truncated"),
        ('[{"a": 1}]\n[{"a": 2}]', 1, "comes after the end of the array; if files were joined"),
        ('[{"a": 1}] {"a": 2}', 1, "comes after the end of the array"),
        ('[{"a": 1} {"a": 2}]', 1, "begins with '{', where a comma or the end of the array must be"),
        ('[{"a": 1},\n{"a": 1,, "b": "and more text"}]', 1, "is not JSON: Expecting property name"),
        ("[" * 100_000, 0, "has lists or objects nested too deeply"),
        ('[{"a": %s}]' % ("9" * 5000), 0, "has a number of more than 4,300 digits"),
        ('[{"a": 1},]', 1, "is missing: a comma stands before ']', line 1 of the file; remove the comma"),
        (
            '[{"a": 1},\n,{"a": 2}]',
            1,
            "is missing: a comma stands before ',', line 2 of the file; remove the comma",
        ),
        ('[{"a": 1},\n]', 1, "is missing: a comma stands before ']', line 2 of the file; remove the comma"),
        ('[{"a": "' + "x" * (LONGEST_ROW * 2), 0, "has 16,777,"),
    ],
)
def test_an_array_that_does_not_end_as_it_should_is_refused_behind_the_rows_that_could_be_read(
    tmp_path, written, rows, why
):
    *before, error = records(tmp_path, written)
    assert [record.line for record in before] == list(range(1, rows + 1))
    assert (error.line, error.fatal) == (rows + 1, True)
    assert error.reason.startswith(why)


def test_a_syntax_error_names_the_line_and_the_character(tmp_path):
    written = '[\n  {"a": 1},\n  {"a": 1 "b": 2, "c": "some more text"}\n]'
    assert records(tmp_path, written)[1].reason == (
        "is not JSON: Expecting ',' delimiter, line 3 of the file, character 9 of the row"
    )


@pytest.mark.parametrize(
    ("element", "why"),
    [
        (b'["a", "x"]', 'is not a JSON object but ["a", "x"]'),
        (b'"a"', 'is not a JSON object but "a"'),
        (b"12", "is not a JSON object but 12"),
        (b'{"a": "caf\xe9"}', "is not UTF-8 (byte 11 of the row is 0xE9); as cp1252 it reads"),
        (b'{"a": "\\ud800"}', "has half a character"),
        (b'{"a": "' + b"x" * LONGEST_ROW + b'"}', "has 8,388,617 characters, more than"),
    ],
)
def test_an_element_that_is_no_row_is_named_and_the_next_is_read(tmp_path, element, why):
    one, bad, other = records(tmp_path, b'[{"a": 1}, ' + element + b', {"a": 2}]')
    assert (one, other) == (Record(1, {"a": 1}), Record(3, {"a": 2}))
    assert isinstance(bad, RowError)
    assert (bad.line, bad.fatal) == (2, False)
    assert bad.reason.startswith(why)


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_ten_megabytes_is_read_in_one(tmp_path, indent):
    path = tmp_path / "a.json"
    rows = [{"text": f"{number} " + "words of a text " * 64, "label": "x"} for number in range(10_000)]
    path.write_text(json.dumps(rows, indent=indent))
    assert path.stat().st_size > 10_000_000
    del rows
    tracemalloc.start()
    assert sum(record.line for record in read_json_array(path)) == 10_000 * 10_001 // 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
