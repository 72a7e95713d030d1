"""From files of every format to rows of every objective, and what is said about those that cannot be used."""

import gzip
import io
import json
import pickle
import random
from functools import partial
from zipfile import ZipFile

import pyarrow
import pyarrow.parquet
import pytest

from finetune_api.dataset import ColumnsSpec, PreprocessingSpec
from finetune_api.run import DataInput
from finetune_trainer.data.deduplicate import Deduplicator
from finetune_trainer.data.records import LONGEST_ROW
from finetune_trainer.data.rows import ReadOptions
from finetune_trainer.data.sources import scan
from finetune_trainer.errors import ConfigurationError, DataError, TrainerError
from finetune_trainer.objectives.labels import label_text


def several(read, value):
    """A list of labels as several objectives read it."""
    if not isinstance(value, list):
        raise ValueError(f"is not a list but {type(value).__name__}")
    return tuple(map(read, value))


LISTS = {"read_label": partial(several, label_text), "label_lists": True}
WORDS = {**LISTS, "per_token": True}
DOCUMENTS = {"per_token": True, "labelled": False, "read_label": label_text}


def source(path, columns=None, **changes):
    fields = {
        "columns": ColumnsSpec.model_validate(columns or {}),
        "preprocessing": PreprocessingSpec(),
        "max_invalid_rows": "0",
        "read_label": label_text,
    }
    data = DataInput(path=str(path), uri=f"pvc://data/{path.name}")
    options = ReadOptions(**fields | changes)
    return scan("dataset.train", data, options, Deduplicator(options.preprocessing.deduplicate)).source


def refusal(path, **changes):
    with pytest.raises(DataError) as caught:
        source(path, **changes)
    place = caught.value.place
    return caught.value.message.removeprefix("pvc://data/"), (place.row, place.column)


def jsonl(tmp_path, *rows):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def csv(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text)
    return path


def parquet(tmp_path, rows, schema=None):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path, row_group_size=2)
    return path


def read(source):
    return [(row.line, row.text, row.label) for row in source.rows]


def test_words_and_their_labels_are_read_from_every_format(tmp_path):
    rows = [{"text": ["A", "film"], "label": ["x", "y"]}, {"text": ["It"], "label": ["x"]}]
    expected = [(("A", "film"), ("x", "y")), (("It",), ("x",))]
    written = csv(tmp_path, 'text,label\n"[""A"", ""film""]","[""x"", ""y""]"\n"[""It""]","[""x""]"\n')
    for path in (jsonl(tmp_path, *rows), parquet(tmp_path, rows), written):
        assert [row[1:] for row in read(source(path, **WORDS))] == expected


@pytest.mark.parametrize(
    ("row", "why", "column"),
    [
        ({"text": ["a", "b"], "label": ["x"]}, "has 1 labels for 2 words", "label"),
        ({"text": [], "label": []}, "has no word", "text"),
        ({"text": ["a", " "], "label": ["x", "y"]}, "has no characters in word 2", "text"),
        (
            {"text": ["a", 3], "label": ["x", "y"]},
            "is not a list of words but a list of texts and numbers",
            "text",
        ),
        (
            {"text": "a b", "label": ["x", "y"]},
            "is not a list but the text 'a b'; write a list as JSON",
            "text",
        ),
        ({"text": {"a": 1}, "label": ["x"]}, "is not a list of words but an object with the keys a", "text"),
        ({"text": ["a"], "label": None}, "is not a list but NoneType", "label"),
    ],
)
def test_a_row_of_words_that_cannot_be_used_is_named_with_its_column(tmp_path, row, why, column):
    path = jsonl(tmp_path, {"text": ["fine"], "label": ["x"]}, row)
    assert refusal(path, **WORDS) == (f"a.jsonl, row 2, column {column} {why}", (2, column))


def test_words_are_cleaned_one_by_one(tmp_path):
    path = jsonl(tmp_path, {"text": ["ＡＢ", "<b>C</b>"], "label": ["x", "y"]})
    spec = PreprocessingSpec(unicode="NFKC", strip_markup=True, lowercase=True)
    assert read(source(path, preprocessing=spec, **WORDS)) == [(1, ("ab", "c"), ("x", "y"))]


def test_a_list_of_labels_may_be_empty_and_is_written_as_json_in_csv(tmp_path):
    path = csv(tmp_path, 'text,label\nfine,"[""a"", ""b""]"\nplain,[]\nbad,a\n')
    assert read(source(path, max_invalid_rows="1", **LISTS)) == [(2, "fine", ("a", "b")), (3, "plain", ())]
    assert refusal(path, **LISTS)[0].startswith("a.csv, row 4, column label is not a list but the text 'a'")


@pytest.mark.parametrize(
    ("prompt", "text", "joined"),
    [
        ("the  film is  ", "a\t dull story\n", "the film is a dull story "),
        ("the  film is", " \n a\tdull story", "the film is a dull story"),
        (" ", "a  dull story", "a dull story"),
    ],
)
def test_white_space_is_collapsed_but_the_space_between_prompt_and_text_stays(tmp_path, prompt, text, joined):
    path = jsonl(tmp_path, {"prompt": prompt, "text": text})
    spec = PreprocessingSpec(collapse_whitespace=True)
    (row,) = source(path, {"prompt": "prompt"}, preprocessing=spec, **DOCUMENTS).rows
    assert row.pair + row.text == joined


def test_a_text_of_white_space_alone_is_empty_behind_a_prompt_too(tmp_path):
    path = jsonl(tmp_path, {"prompt": "it is", "text": " \n "})
    how = {
        "columns": ColumnsSpec(prompt="prompt"),
        "preprocessing": PreprocessingSpec(collapse_whitespace=True),
    }
    assert refusal(path, **how, **DOCUMENTS) == ("a.jsonl, row 1, column text is empty", (1, "text"))


def test_documents_have_no_label_and_a_prompt_that_may_be_empty(tmp_path):
    path = jsonl(tmp_path, {"text": "b", "question": "a"}, {"text": "c", "question": ""})
    rows = source(path, {"prompt": "question"}, **DOCUMENTS).rows
    assert [(row.pair, row.text, row.label) for row in rows] == [("a", "b", None), ("", "c", None)]
    assert refusal(path, columns={"prompt": "ask"}, **DOCUMENTS)[1] == (1, "ask")


def test_a_text_file_is_one_document_a_line_and_for_causal_lm_only(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\n\ntwo \u00e9\r\n".encode())
    assert read(source(path, **DOCUMENTS)) == [(1, "one", None), (3, "two \u00e9", None)]
    with pytest.raises(
        ConfigurationError, match=r"a\.txt has one text per line and no other columns.*use jsonl"
    ) as caught:
        source(path)
    assert caught.value.place.field == "dataset.train.format"
    path.write_bytes(b"fine\nbad \x81\x01\n")
    assert refusal(path, **DOCUMENTS) == (
        "a.txt, row 2 is not UTF-8 (byte 5 of the line is 0x81); save the file as UTF-8",
        (2, None),
    )


def test_parquet_rows_are_numbered_over_row_groups_and_unused_columns_are_not_read(tmp_path):
    rows = [{"text": f"t{n}", "label": n, "other": {"deep": [n]}} for n in range(5)]
    assert read(source(parquet(tmp_path, rows))) == [(n + 1, f"t{n}", str(n)) for n in range(5)]
    assert refusal(parquet(tmp_path, rows), columns={"text": "stars"}) == (
        "a.parquet, row 1, column stars is missing; available columns: 'text', 'label', 'other'",
        (1, "stars"),
    )


def test_parquet_values_that_cannot_be_used_name_row_and_column(tmp_path):
    nothing = parquet(tmp_path, [{"text": "a", "label": "x"}, {"text": None, "label": "x"}])
    assert refusal(nothing) == ("a.parquet, row 2, column text is not a text but null", (2, "text"))
    number = parquet(tmp_path, [{"text": "a", "label": 1.0}, {"text": "b", "label": float("nan")}])
    assert refusal(number)[1] == (2, "label")
    table = pyarrow.table({"text": pyarrow.array([b"fine", b"\xff"]), "label": ["x", "y"]})
    text = pyarrow.StringArray.from_buffers(2, *table["text"].chunk(0).buffers()[1:])
    pyarrow.parquet.write_table(pyarrow.table({"text": text, "label": ["x", "y"]}), nothing)
    assert refusal(nothing) == ("a.parquet, row 2, column text is not UTF-8", (2, "text"))


@pytest.mark.parametrize("allowed", ["0", "100%"])
def test_a_file_that_is_not_parquet_is_refused_whatever_is_tolerated(tmp_path, allowed):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"text,label\n")
    message, place = refusal(path, max_invalid_rows=allowed)
    assert message.startswith("a.parquet, row 1 cannot be read: the file is not Parquet, or is corrupted")
    assert place == (1, None)
    whole = parquet(tmp_path, [{"text": "fine" * 1000, "label": str(n)} for n in range(50)]).read_bytes()
    path.write_bytes(whole[:100] + bytes(300) + whole[400:])
    assert "the file is" in refusal(path, max_invalid_rows=allowed)[0]


def test_a_column_that_stands_twice_in_parquet_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    columns = [pyarrow.array(values) for values in (["a"], ["b"], ["x"])]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, ["text", "text", "label"]), path)
    told = "a.parquet, row 1 has several columns 'text'; rename one of them"
    assert refusal(path, max_invalid_rows="100%") == (told, (1, None))


def test_a_header_that_names_a_column_twice_is_refused(tmp_path):
    path = csv(tmp_path, "text,label,text\na,x,b\n")
    assert refusal(path, max_invalid_rows="100%") == (
        "a.csv, row 1 is the header and names column 'text' more than once; rename one of them",
        (1, None),
    )


def test_a_row_of_fifty_megabytes_is_named_and_the_others_are_read(tmp_path):
    huge = "x" * 50_000_000
    why = f"more than the {LONGEST_ROW:,} that a row may have; split it into several rows"
    rows = [{"text": text, "label": "x"} for text in ("fine", huge, "also")]
    lines, table = jsonl(tmp_path, *rows), parquet(tmp_path, rows)
    commas = csv(tmp_path, f"text,label\nfine,x\n{huge},x\nalso,y\n")
    for path in (lines, table, commas):
        assert [text for _, text, _ in read(source(path, max_invalid_rows="1"))] == ["fine", "also"]
    assert refusal(lines) == (f"a.jsonl, row 2 has 50,000,027 bytes, {why}", (2, None))
    assert refusal(commas) == (f"a.csv, row 3 has 50,000,003 bytes, {why}", (3, None))
    assert refusal(table) == (f"a.parquet, row 2, column text has 50,000,000 characters, {why}", (2, "text"))


@pytest.mark.parametrize(
    "row",
    ["text,label", '"text","label"', "\ufefftext,label", "label,text", " Text , LABEL "],
)
def test_a_header_in_the_middle_of_a_csv_file_is_refused_with_its_line(tmp_path, row):
    path = csv(tmp_path, f"text,label\na dull film,neg\n{row}\na fine film,pos\n")
    assert refusal(path)[0].startswith("a.csv, row 3 repeats the names of the columns")
    assert read(source(path, max_invalid_rows="1")) == [(2, "a dull film", "neg"), (4, "a fine film", "pos")]


def test_a_header_that_became_a_row_of_jsonl_is_refused_too(tmp_path):
    path = jsonl(tmp_path, {"text": "fine", "label": "x"}, {"text": "text", "label": "label"})
    assert refusal(path)[0].startswith("a.jsonl, row 2 repeats the names of the columns")


@pytest.mark.parametrize("text", [" ", "\t", "\u200b", "\ufeff \u200d", "\u00ad", "\u3000"])
def test_a_text_that_shows_nothing_is_no_usable_row(tmp_path, text):
    path = jsonl(tmp_path, {"text": "fine", "label": "x"}, {"text": text, "label": "x"})
    assert refusal(path)[0] == "a.jsonl, row 2, column text has only white space or invisible characters"


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"text ": "a", "label": "x"}, "available columns: 'text ', 'label'; did you mean 'text '?"),
        ({"Text": "a", "label": "x"}, "did you mean 'Text'?"),
        ({"\ufefftext": "a", "label": "x"}, "did you mean '\\ufefftext'?"),
        ({"texts": "a", "label": "x"}, "did you mean 'texts'?"),
        ({"messages": [], "label": "x"}, "conversations are read for objective.causalLM"),
        ({"data": [{"text": "a"}]}, "nested in a column: write one JSON object per line"),
        (
            {"schema": {}, "data": [{"text": "a"}]},
            "pandas' to_json() with another orient: write it with orient=",
        ),
        (
            {"columns": ["text"], "index": [0], "data": [["a"]]},
            "pandas' to_json() with another orient: write it",
        ),
        ({"sentence": "a", "label": "x"}, "did you mean 'sentence'? Columns are named in dataset.columns"),
        (
            {"the first review of all of them": "b", "1": "0"},
            "the first line of a CSV file must name its columns",
        ),
        ({"a": "b", "1": "0"}, "the first line of a CSV file must name its columns"),
    ],
)
def test_a_missing_column_says_what_is_there_instead(tmp_path, fields, hint):
    assert hint in refusal(jsonl(tmp_path, fields))[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (["a", "b"], "is not a text but a list of texts; write one text per row"),
        (None, "is not a text but null"),
        ({"0": "a", "1": "b"}, "orient='records', lines=True"),
        (True, "is not a text but a boolean"),
    ],
)
def test_a_value_that_is_no_text_is_named_in_the_words_of_data_files(tmp_path, text, why):
    assert why in refusal(jsonl(tmp_path, {"text": text, "label": "x"}))[0]


def test_bytes_of_parquet_are_refused_with_the_remedy(tmp_path):
    path = parquet(tmp_path, [{"text": b"fine", "label": "x"}])
    assert "is not a text but bytes (a column without a text type; cast it to string)" in refusal(path)[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "text\tlabel\nfine, really\tpos\n"),
        ("a.csv", "label;text\npos;fine, really\n"),
        ("a.csv", "text|label\nfine, really|pos\n"),
        ("a.csv", ',text,label\n0,"fine, really",pos\n'),
    ],
)
def test_the_separator_is_the_one_that_gives_the_columns(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert read(source(path)) == [(2, "fine, really", "pos")]


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv.gz", "text,label\nfine,pos\n"), ("a.jsonl.gz", '\n{"text": "fine", "label": "pos"}\n')],
)
def test_gzip_is_read_as_what_it_holds(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()))
    assert read(source(path)) == [(2, "fine", "pos")]
    path.rename(tmp_path / name.removesuffix(".gz"))
    assert read(source(tmp_path / name.removesuffix(".gz"))) == [(2, "fine", "pos")]


def zipped(member):
    written = io.BytesIO()
    with ZipFile(written, "w") as file:
        file.writestr(member, "x")
    return written.getvalue()


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.xyz"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (zipped("xl/workbook.xml"), "an Excel file; save it as CSV UTF-8"),
        (zipped("other"), "a zip archive; unpack it"),
        ("text,label\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        ("text,label\n".encode("utf-16-le"), "UTF-16 text without a byte order mark"),
        (pickle.dumps({"text": ["a"]}), "a pickle, which can run code when loaded"),
        (b"PAR1 and more", "a Parquet file; set format to parquet"),
        (b"<!DOCTYPE html><html>", "an HTML page and not data"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"ARROW1\0\0", "an Arrow file; set format to arrow"),
        (b"\xff\xff\xff\xff\x10", "an Arrow stream; set format to arrow"),
        (b'{\n "text": {\n  "0": "a"', "one JSON object with pandas' columns; write it with to_json(orient="),
        (b'{"text": {"0": "' + b"a" * 70_000, "one JSON object with pandas' columns"),
        (
            b'{"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y"}}\n',
            "one JSON object with pandas' columns",
        ),
        (b'{\n "text": [\n  "a"', "one JSON object with a list for each column; write one object per row"),
        (b'{\n "text": "a"\n}', "JSON over several lines; write one object per line"),
    ],
)
def test_a_file_that_cannot_be_read_is_called_what_it_is(tmp_path, name, content, what):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        source(path)
    assert f"{name} is {what}" in caught.value.message


@pytest.mark.parametrize("cut", [40, 200_000])
def test_a_gzip_file_that_is_cut_off_is_refused_whatever_is_tolerated(tmp_path, cut):
    """Within the first bytes, which are looked at, or far behind them."""
    lines = "".join(
        json.dumps({"text": random.Random(n).randbytes(40).hex(), "label": "x"}) + "\n" for n in range(9000)
    )
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines.encode())[:cut])
    with pytest.raises(TrainerError, match="the gzip file is truncated or damaged"):
        source(path, max_invalid_rows="100%")
