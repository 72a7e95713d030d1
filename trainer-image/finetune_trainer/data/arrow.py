"""Reads Parquet and Arrow files in small batches: every row becomes a Record or a RowError with its number from 1."""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.data.records import Record, RowError

BATCH = 1024
READ_BUFFER = 1 << 20
"""Bytes of a column read at once; without it a whole row group is."""
FILE_MAGIC = b"ARROW1"
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class _CorruptedError(ValueError):
    """Rows are missing, though what is there can be read."""


@dataclass(frozen=True)
class _Table:
    schema: Any
    batches: Callable[[list[str] | None], Iterator[Any]]
    """Of some columns, or of all."""


@contextmanager
def _parquet(path: Path) -> Iterator[_Table]:
    from pyarrow.parquet import ParquetFile

    with path.open("rb") as handle:
        file = ParquetFile(handle, buffer_size=READ_BUFFER, pre_buffer=False)
        yield _Table(file.schema_arrow, lambda columns: file.iter_batches(BATCH, columns=columns))


@contextmanager
def _arrow(path: Path) -> Iterator[_Table]:
    """The file format, which Feather is too, or the stream format, mapped into memory."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as source:
        if source.read(len(FILE_MAGIC)) == FILE_MAGIC:
            file = pyarrow.ipc.open_file(source)
            yield _Table(file.schema, lambda columns: _slices(_of_file(file), columns))
        else:
            source.seek(0)
            stream = pyarrow.ipc.open_stream(source)
            yield _Table(stream.schema, lambda columns: _slices(_of_stream(source, stream), columns))


def _of_file(file: Any) -> Iterator[Any]:
    return (file.get_batch(number) for number in range(file.num_record_batches))


def _of_stream(source: Any, stream: Any) -> Iterator[Any]:
    """A stream that is cut between two batches looks finished, and so do two streams that were joined."""
    yield from stream
    end = source.tell()
    source.seek(max(0, end - len(END_OF_STREAM)))
    if end < source.size():
        raise _CorruptedError("more follows after the end of its stream; write joined files with pyarrow")
    if source.read() != END_OF_STREAM:
        raise _CorruptedError("its stream has no end mark, so that rows may be missing; write it again")


def _slices(batches: Iterator[Any], columns: list[str] | None) -> Iterator[Any]:
    for batch in batches:
        chosen = batch if columns is None else batch.select(columns)
        for start in range(0, chosen.num_rows, BATCH):
            yield chosen.slice(start, BATCH)


def read_parquet(path: Path, wanted: Collection[str] = ()) -> Iterator[Record | RowError]:
    """Rows with the wanted columns, or with all columns if one of those does not exist."""
    return _rows(_parquet(path), "Parquet", wanted)


def read_arrow(path: Path, wanted: Collection[str] = ()) -> Iterator[Record | RowError]:
    """Rows with the wanted columns, or with all columns if one of those does not exist."""
    return _rows(_arrow(path), "Arrow", wanted)


def parquet_schema(path: Path) -> Any:
    """The Arrow schema; None for a file that cannot be read."""
    return _schema(_parquet(path))


def arrow_schema(path: Path) -> Any:
    """The Arrow schema; None for a file that cannot be read."""
    return _schema(_arrow(path))


def _schema(opened: AbstractContextManager[_Table]) -> Any:
    import pyarrow

    try:
        with opened as table:
            return table.schema
    except pyarrow.ArrowException:
        return None
    except OSError as error:
        if error.errno is not None:
            raise
        return None


def _rows(
    opened: AbstractContextManager[_Table], kind: str, wanted: Collection[str]
) -> Iterator[Record | RowError]:
    import pyarrow

    number = 0
    try:
        with opened as table:
            there = table.schema.names
            if repeated := [name for name in there if there.count(name) > 1]:
                yield RowError(1, f"has several columns {repeated[0]!r}; rename one of them", fatal=True)
                return
            for batch in table.batches(list(wanted) if wanted and set(wanted) <= set(there) else None):
                for row in range(batch.num_rows):
                    number += 1
                    yield _record(number, batch, row)
    except pyarrow.ArrowException as error:
        reason = f"cannot be read: the file is not {kind}, or is corrupted ({error})"
        yield RowError(number + 1, reason, fatal=True)
    except _CorruptedError as error:
        yield RowError(number + 1, f"cannot be read: {error}", fatal=True)
    except OSError as error:
        if error.errno is not None:
            raise
        yield RowError(number + 1, f"cannot be read: the file is corrupted ({error})", fatal=True)


def _record(number: int, batch: Any, row: int) -> Record | RowError:
    fields = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            fields[name] = _without_nulls(column[row].as_py())
        except UnicodeDecodeError:
            return RowError(number, "is not UTF-8", name)
    return Record(number, fields)


def _without_nulls(value: Any) -> Any:
    """Without the keys of objects that are null: Arrow gives every object the keys of all others."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
