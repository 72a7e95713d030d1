"""Reads Parquet files in small batches: every row becomes a Record or a RowError with its number from 1."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from finetune_trainer.data.records import Record, RowError

BATCH = 1024
READ_BUFFER = 1 << 20
"""Bytes of a column read at once; without it a whole row group is."""


def read_parquet(path: Path, wanted: Collection[str] = ()) -> Iterator[Record | RowError]:
    """Rows with the wanted columns, or with all columns if one of those does not exist."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with path.open("rb") as handle:
            file = ParquetFile(handle, buffer_size=READ_BUFFER, pre_buffer=False)
            there = file.schema_arrow.names
            if repeated := [name for name in there if there.count(name) > 1]:
                yield RowError(1, f"has several columns {repeated[0]!r}; rename one of them", fatal=True)
                return
            columns = list(wanted) if wanted and set(wanted) <= set(there) else None
            for batch in file.iter_batches(BATCH, columns=columns):
                for row in range(batch.num_rows):
                    number += 1
                    yield _record(number, batch, row)
    except pyarrow.ArrowException as error:
        yield RowError(
            number + 1, f"cannot be read: the file is not Parquet, or is corrupted ({error})", fatal=True
        )
    except OSError as error:
        if error.errno is not None:
            raise
        yield RowError(number + 1, f"cannot be read: the file is corrupted ({error})", fatal=True)


def _record(number: int, batch: Any, row: int) -> Record | RowError:
    fields = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            fields[name] = column[row].as_py()
        except UnicodeDecodeError:
            return RowError(number, "is not UTF-8", name)
    return Record(number, fields)
