"""Arrow files of both formats: read as they are, and refused where rows would be lost."""

import pyarrow
import pyarrow.feather
import pytest

from finetune_trainer.data.arrow import BATCH, read_arrow
from finetune_trainer.data.records import Record

ROWS = [{"text": f"t{number}", "label": number % 3} for number in range(2 * BATCH + 10)]
TABLE = pyarrow.Table.from_pylist(ROWS)


def stream(path, table=TABLE, chunk=700):
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return path


def file(path, table=TABLE, chunk=700, compression="zstd"):
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with (
        pyarrow.OSFile(str(path), "wb") as sink,
        pyarrow.ipc.new_file(sink, table.schema, options=options) as writer,
    ):
        writer.write_table(table, max_chunksize=chunk)
    return path


def feather(path):
    pyarrow.feather.write_feather(TABLE, path, compression="lz4")
    return path


@pytest.mark.parametrize("write", [stream, file, feather])
def test_rows_are_numbered_over_batches_of_any_size(tmp_path, write):
    records = list(read_arrow(write(tmp_path / "a.arrow"), ["text", "label"]))
    assert records == [Record(number, row) for number, row in enumerate(ROWS, start=1)]


def test_a_column_that_is_not_wanted_is_not_read(tmp_path):
    path = stream(tmp_path / "a.arrow")
    assert next(read_arrow(path, ["label"])).fields == {"label": 0}
    assert next(read_arrow(path, ["label", "other"])).fields == ROWS[0]


def test_categories_and_views_are_read_as_their_texts(tmp_path):
    columns = {
        "text": pyarrow.array(["a", "b"], pyarrow.string_view()),
        "label": pyarrow.array(["x", "y"]).dictionary_encode(),
    }
    path = stream(tmp_path / "a.arrow", pyarrow.table(columns))
    assert [record.fields for record in read_arrow(path)] == [
        {"text": "a", "label": "x"},
        {"text": "b", "label": "y"},
    ]


def cut_within_a_batch(path):
    stream(path)
    path.write_bytes(path.read_bytes()[:9000])


def cut_between_batches(path):
    """Without the end mark, as after a writer that was killed."""
    stream(path)
    path.write_bytes(path.read_bytes()[:-8])


def joined(path):
    stream(path)
    path.write_bytes(path.read_bytes() * 2)


def cut_file(path):
    file(path)
    path.write_bytes(path.read_bytes()[:-100])


def other(path):
    path.write_text("text,label\n")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (cut_within_a_batch, "cannot be read: the file is corrupted (Expected to be able to read"),
        (cut_between_batches, "cannot be read: its stream has no end mark, so that rows may be missing"),
        (joined, "cannot be read: more follows after the end of its stream; write joined files with pyarrow"),
        (cut_file, "cannot be read: the file is not Arrow, or is corrupted"),
        (other, "cannot be read: the file is not Arrow, or is corrupted"),
        (empty, "cannot be read: the file is not Arrow, or is corrupted"),
    ],
)
def test_a_file_of_which_rows_are_missing_is_refused(tmp_path, damage, why):
    path = tmp_path / "a.arrow"
    damage(path)
    *_, error = read_arrow(path)
    assert error.fatal
    assert error.reason.startswith(why)


@pytest.mark.parametrize("write", [stream, lambda path, table, chunk: file(path, table, chunk, None)])
def test_one_batch_of_thirty_megabytes_is_not_copied_into_memory(tmp_path, write):
    texts = [f"{number} " + "words of a text " * 64 for number in range(30_000)]
    table = pyarrow.table({"text": texts})
    path = write(tmp_path / "a.arrow", table, len(table))
    del table
    pool = pyarrow.default_memory_pool()
    before, largest, count = pool.bytes_allocated(), 0, 0
    for record in read_arrow(path):
        count += len(record.fields["text"]) > 1000
        largest = max(largest, pool.bytes_allocated() - before)
    assert path.stat().st_size > 30_000_000
    assert count == 30_000
    assert largest < 1_000_000
