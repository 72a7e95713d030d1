"""Several files as one input: patterns, folders, folders of datasets; what must be alike, and how rows are named."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from finetune_api.dataset import ColumnsSpec, PreprocessingSpec
from finetune_api.run import DataInput
from finetune_trainer.config import read_config
from finetune_trainer.data.dataset import read_dataset
from finetune_trainer.data.deduplicate import Deduplicator
from finetune_trainer.data.rows import ReadOptions
from finetune_trainer.data.sources import scan
from finetune_trainer.errors import DataError, NotFoundError
from finetune_trainer.objectives.labels import label_text
from finetune_trainer.reporting.recorder import Recorder
from unit.trainer.tiny import reviews, write_jsonl

ROWS = [{"text": f"t{number}", "label": "x" if number % 2 else "y"} for number in range(6)]


def options(**changes):
    fields = {
        "columns": ColumnsSpec(),
        "preprocessing": PreprocessingSpec(),
        "max_invalid_rows": "0",
        "read_label": label_text,
    }
    return ReadOptions(**fields | changes)


def read(folder, pattern, earlier=(), duplicates=None, kind=None, **changes):
    how = options(**changes)
    uri = f"pvc://mine/{folder.name}/{pattern}".rstrip("/")
    data = DataInput(path=str(folder / pattern), uri=uri, format=kind)
    return scan(
        "dataset.train", data, how, duplicates or Deduplicator(how.preprocessing.deduplicate), earlier=earlier
    )


def refusal(folder, pattern, error=NotFoundError, **changes):
    with pytest.raises(error) as caught:
        read(folder, pattern, **changes)
    return caught.value.message.removeprefix("dataset.train: "), caught.value.place


def texts(index):
    return [row.text for row in index.source.rows]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def packed(path, rows):
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def array(path, rows):
    path.write_text(json.dumps(rows))


def csv(path, rows):
    path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))


def parquet(path, rows, schema=None):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path)


def stream(path, rows):
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def feather(path, rows):
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)


WRITERS = {
    "jsonl": jsonl,
    "jsonl.gz": packed,
    "json": array,
    "csv": csv,
    "parquet": parquet,
    "arrow": stream,
    "feather": feather,
}


@pytest.mark.parametrize("ending", WRITERS)
def test_the_files_of_a_pattern_are_read_as_one_in_the_order_of_their_names(tmp_path, caplog, ending):
    caplog.set_level("INFO")
    for number in (2, 0, 1):
        WRITERS[ending](tmp_path / f"train-{number}.{ending}", ROWS[2 * number : 2 * number + 2])
    WRITERS[ending](tmp_path / f"other-0.{ending}", [{"text": "other", "label": "x"}])
    WRITERS[ending](tmp_path / f".train-9.{ending}", [{"text": "hidden", "label": "x"}])
    index = read(tmp_path, f"train-?.{ending}")
    assert texts(index) == [row["text"] for row in ROWS]
    assert list(index.labels) == [row["label"] for row in ROWS]
    first = 2 if ending == "csv" else 1
    folder = f"pvc://mine/{tmp_path.name}"
    assert [index.place(row) for row in (0, 3, 4)] == [
        (f"{folder}/train-0.{ending}", first),
        (f"{folder}/train-1.{ending}", first + 1),
        (f"{folder}/train-2.{ending}", first),
    ]
    assert [index.source.place(int(line)) for line in index.lines] == [index.place(row) for row in range(6)]
    assert f"3 files: train-0.{ending} to train-2.{ending}" in caplog.text
    assert index.resolved.rows == 6


def test_the_digest_covers_every_file_and_their_order(tmp_path):
    jsonl(tmp_path / "a.jsonl", ROWS[:3])
    jsonl(tmp_path / "b.jsonl", ROWS[3:])
    both = read(tmp_path, "*.jsonl")
    assert both.resolved.digest == read(tmp_path, "*.jsonl").resolved.digest
    (tmp_path / "a.jsonl").rename(tmp_path / "c.jsonl")
    swapped = read(tmp_path, "*.jsonl")
    jsonl(tmp_path / "c.jsonl", [*ROWS[:2], {"text": "t2", "label": "x"}])
    changed = read(tmp_path, "*.jsonl")
    assert len({index.resolved.digest for index in (both, swapped, changed)}) == 3
    assert len({index.source.digest for index in (both, swapped, changed)}) == 3


def test_one_file_has_the_digest_and_the_rows_that_it_has_alone(tmp_path):
    jsonl(tmp_path / "a.jsonl", ROWS)
    alone, matched = read(tmp_path, "a.jsonl"), read(tmp_path, "*.jsonl")
    assert alone.source.digest == matched.source.digest
    assert matched.place(2) == (f"pvc://mine/{tmp_path.name}/a.jsonl", 3)


def test_a_file_whose_name_has_a_star_is_read_as_that_file(tmp_path):
    jsonl(tmp_path / "a*.jsonl", ROWS[:1])
    jsonl(tmp_path / "ab.jsonl", ROWS[1:])
    assert texts(read(tmp_path, "a*.jsonl")) == ["t0"]


def test_a_bracket_is_a_character_of_a_name(tmp_path):
    jsonl(tmp_path / "a[1]-0.jsonl", ROWS[:1])
    jsonl(tmp_path / "a1-0.jsonl", ROWS[1:])
    assert texts(read(tmp_path, "a[1]-*.jsonl")) == ["t0"]


def test_a_pattern_that_matches_nothing_says_what_is_there(tmp_path):
    jsonl(tmp_path / "train.jsonl", ROWS)
    (tmp_path / "old").mkdir()
    name = f"pvc://mine/{tmp_path.name}/*.parquet"
    message, place = refusal(tmp_path, "*.parquet")
    assert message == f"{name} matches no file; the folder has old/, train.jsonl"
    assert (place.field, place.file) == ("dataset.train", name)
    assert refusal(tmp_path / "old", "*")[0] == "pvc://mine/old/* matches no file; the folder has no files"
    assert refusal(tmp_path / "none", "*")[0] == "pvc://mine/none does not exist"


def test_a_pattern_that_matches_a_folder_is_refused(tmp_path):
    jsonl(tmp_path / "train-1.jsonl", ROWS)
    (tmp_path / "train-old").mkdir()
    assert "matches the folder train-old; write a pattern" in refusal(tmp_path, "train-*")[0]


def named(path, *names):
    """A file whose schema names the classes, as `datasets` writes it."""
    info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    schema = pyarrow.schema([("text", pyarrow.string()), ("label", pyarrow.int64())])
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    parquet(path, rows, schema.with_metadata({"huggingface": json.dumps(info)}))


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (ROWS, [{**ROWS[0], "source": "web"}], "has the column 'source', which {first} does not have"),
        (ROWS, [{"text": "a"}], "has no column 'label', which {first} has"),
        (("a", "b"), ("b", "a"), "has other class names in its schema (b, a) than {first} (a, b)"),
        (("a", "b"), ROWS, "has other class names in its schema (none) than {first} (a, b)"),
    ],
)
def test_a_file_with_other_columns_or_class_names_is_refused_by_name(tmp_path, first, second, why):
    for file, what in (("a", first), ("b", second)):
        path = tmp_path / f"{file}.parquet"
        parquet(path, what) if isinstance(what, list) else named(path, *what)
    folder = f"pvc://mine/{tmp_path.name}"
    message, place = refusal(tmp_path, "*.parquet", DataError)
    said = why.format(first=f"{folder}/a.parquet")
    assert message == f"{folder}/b.parquet {said}; all files must have the same format and columns"
    assert place.file == f"{folder}/b.parquet"


def test_csv_files_may_differ_in_the_order_of_columns_and_in_their_separator(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nfine,pos\n")
    (tmp_path / "b.csv").write_text("label;text\nneg;dull, really\n")
    assert texts(read(tmp_path, "*.csv")) == ["fine", "dull, really"]
    (tmp_path / "c.csv").write_text("text,label,\nfine,pos,\n")
    assert "c.csv has the column ''" in refusal(tmp_path, "*.csv", DataError)[0]


@pytest.mark.parametrize(("one", "other"), [(jsonl, csv), (array, jsonl), (jsonl, parquet), (csv, feather)])
def test_files_of_two_formats_are_refused_by_name(tmp_path, one, other):
    endings = {writer: ending for ending, writer in WRITERS.items()}
    one(tmp_path / f"a.{endings[one]}", ROWS)
    other(tmp_path / f"b.{endings[other]}", ROWS)
    assert f"/b.{endings[other]} is " in refusal(tmp_path, "*", DataError)[0]


def test_an_invalid_row_is_named_by_its_own_file(tmp_path, caplog):
    jsonl(tmp_path / "a.jsonl", ROWS[:2])
    jsonl(tmp_path / "b.jsonl", [ROWS[2], {"text": None, "label": "x"}, {"text": "", "label": "x"}])
    folder = f"pvc://mine/{tmp_path.name}"
    message, place = refusal(tmp_path, "*.jsonl", DataError)
    assert message == f"{folder}/b.jsonl, row 2, column text is not a text but null"
    assert (place.file, place.row, place.column) == (f"{folder}/b.jsonl", 2, "text")
    found = read(tmp_path, "*.jsonl", max_invalid_rows="2").resolved
    assert [(each.reason, each.first_row) for each in found.invalid_reasons] == [
        ("column text is not a text but null (first in b.jsonl)", 2),
        ("column text is empty (first in b.jsonl)", 3),
    ]
    assert "1 rows: column text is empty (first row 3 of b.jsonl)" in caplog.text


def test_labels_of_another_type_in_another_file_are_refused(tmp_path):
    jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": "1"}])
    jsonl(tmp_path / "b.jsonl", [{"text": "b", "label": 1}])
    name = f"pvc://mine/{tmp_path.name}"
    assert refusal(tmp_path, "*.jsonl", DataError)[0] == (
        f"{name}/b.jsonl, row 1, column label has a number as label, 1, where row 1 of {name}/a.jsonl has a text;"
        " write all labels of a file alike"
    )


def test_a_damaged_file_among_several_is_named(tmp_path):
    parquet(tmp_path / "a.parquet", ROWS)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    assert "/b.parquet, row 1 cannot be read: the file is not Parquet" in refusal(tmp_path, "*", DataError)[0]
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}')[:12])
    (tmp_path / "d.jsonl.gz").symlink_to(tmp_path / "gone")
    assert "/c.jsonl.gz cannot be read: the gzip file" in refusal(tmp_path, "c*")[0]
    assert "/d.jsonl.gz does not exist" in refusal(tmp_path, "d*")[0]


def test_the_same_text_in_two_files_is_a_duplicate_and_a_conflict_names_both(tmp_path, caplog):
    jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}])
    jsonl(tmp_path / "b.jsonl", [{"text": "c", "label": "x"}, {"text": "b", "label": "y"}])
    index = read(tmp_path, "*.jsonl", preprocessing=PreprocessingSpec(deduplicate="Exact"))
    assert (texts(index), index.resolved.conflicting_duplicates) == (["a", "b", "c"], 1)
    name = f"pvc://mine/{tmp_path.name}"
    assert f"for example row 2 of {name}/b.jsonl and row 2 of {name}/a.jsonl" in caplog.text


def test_a_text_of_a_later_input_conflicts_with_an_earlier_one(tmp_path, caplog):
    exact = {"preprocessing": PreprocessingSpec(deduplicate="Exact"), "duplicates": Deduplicator("Exact")}
    jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}])
    jsonl(tmp_path / "b.jsonl", [{"text": text, "label": "y"} for text in "cbab"])
    train = read(tmp_path, "a.jsonl", **exact)
    held_out = read(tmp_path, "b.jsonl", earlier=[train], **exact)
    assert (texts(held_out), held_out.resolved.conflicting_duplicates) == (["c"], 3)
    name = f"pvc://mine/{tmp_path.name}"
    assert f"for example row 2 of {name}/b.jsonl and row 2 of {name}/a.jsonl" in caplog.text


def test_rows_without_a_group_are_apart_over_all_files(tmp_path):
    for name in "ab":
        jsonl(tmp_path / f"{name}.jsonl", [{"text": name, "label": "x", "group": None}] * 2)
    assert len(set(read(tmp_path, "*.jsonl", group_by="group").groups.tolist())) == 4


def test_a_folder_of_one_format_is_read_without_markers_and_hidden_files(tmp_path):
    for number in range(3):
        parquet(tmp_path / f"part-0000{number}.snappy.parquet", ROWS[2 * number : 2 * number + 2])
    for marker in ("_SUCCESS", "._SUCCESS.crc", ".part-00000.snappy.parquet.crc"):
        (tmp_path / marker).write_bytes(b"")
    index = read(tmp_path, "")
    assert texts(index) == [row["text"] for row in ROWS]
    assert index.place(5) == (f"pvc://mine/{tmp_path.name}/part-00002.snappy.parquet", 2)


def test_a_folder_of_files_without_an_extension_is_read_in_the_format_that_is_set(tmp_path):
    jsonl(tmp_path / "part-00000", ROWS)
    assert "does not hold data files of one format only: part-00000; name" in refusal(tmp_path, "")[0]
    assert len(read(tmp_path, "", kind="jsonl")) == len(ROWS)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([], "is an empty folder"),
        (
            ["a.jsonl", "b.csv"],
            "does not hold data files of one format only: a.jsonl, b.csv; name a file in it",
        ),
        (
            ["a.jsonl", "README.md"],
            "README.md, a.jsonl; name a file in it, or several with a pattern such as",
        ),
        (["a.parquet/x.parquet"], "does not hold data files of one format only: a.parquet/; name"),
        (["model.safetensors", "config.json"], "does not hold data files of one format only: config.json,"),
        (["test-0.csv", "train-0.csv", "train-1.csv"], "train-1.csv; name one, such as {name}/*train*"),
        (["dev.csv", "x_train.csv"], "x_train.csv; name one, such as"),
    ],
)
def test_a_folder_that_cannot_be_read_says_what_is_in_it_and_the_remedy(tmp_path, names, why):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        csv(tmp_path / name, ROWS)
    assert why.format(name=f"pvc://mine/{tmp_path.name}") in refusal(tmp_path, "")[0]


def test_a_pattern_over_several_splits_is_read_and_the_last_message_says_so(tmp_path, make_job):
    made = make_job()
    for name, rows in {
        "test-0": reviews(9, 300),
        "train-0": reviews(40),
        "trial-0": reviews(30, 600),
    }.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    every = {"train": {"path": str(tmp_path / "t*.jsonl"), "uri": None}}
    recorder = Recorder()
    assert read_dataset(read_config(made.changed({"dataset": every}).write(), {}), recorder)
    caveat = "several splits (test, train), and all are read; if that is not meant, name one split"
    assert [each.endswith(caveat) for each in recorder.caveats] == [True]
    one = {"train": {"path": str(tmp_path / "tr*.jsonl"), "uri": None}}
    recorder = Recorder()
    assert read_dataset(read_config(made.changed({"dataset": one}).write(), {}), recorder)
    assert recorder.caveats == []


def saved(folder, shards=2, **state):
    """A folder as datasets.save_to_disk writes it."""
    folder.mkdir()
    names = [f"data-{number:05}-of-{shards:05}.arrow" for number in range(shards)]
    for number, name in enumerate(names):
        stream(folder / name, ROWS[number::shards])
    (folder / "dataset_info.json").write_text("{}")
    files = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": files} | state))


def test_a_folder_of_save_to_disk_is_read_in_the_order_of_its_state(tmp_path):
    saved(tmp_path / "set", _data_files=[{"filename": f"data-0000{n}-of-00002.arrow"} for n in (1, 0)])
    index = read(tmp_path, "set")
    assert texts(index) == ["t1", "t3", "t5", "t0", "t2", "t4"]
    assert index.place(4) == (f"pvc://mine/{tmp_path.name}/set/data-00000-of-00002.arrow", 2)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (
            lambda folder: (folder / "data-00001-of-00002.arrow").unlink(),
            "lacks data-00001-of-00002.arrow, which",
        ),
        (lambda folder: (folder / "state.json").write_text("{}"), "that datasets.save_to_disk did not write"),
        (
            lambda folder: (folder / "state.json").write_text('{"_data_files": []}'),
            "is a dataset without rows",
        ),
    ],
)
def test_a_saved_folder_that_is_not_whole_is_refused(tmp_path, damage, why):
    saved(tmp_path / "set")
    damage(tmp_path / "set")
    assert why in refusal(tmp_path, "set")[0]


def test_a_saved_selection_of_rows_is_refused(tmp_path):
    saved(tmp_path / "set", _indices_data_files=[{"filename": "indices.arrow"}])
    assert "with a selection of rows; load and save it again" in refusal(tmp_path, "set")[0]


def test_a_saved_dictionary_of_splits_names_them(tmp_path):
    (tmp_path / "set").mkdir()
    for split in ("test", "train"):
        saved(tmp_path / "set" / split)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    name = f"pvc://mine/{tmp_path.name}/set"
    assert refusal(tmp_path, "set")[0] == (
        f"{name} is a DatasetDict; name the split: {name}/test or {name}/train"
    )
