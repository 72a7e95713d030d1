"""Reads one data file into Rows: columns, cleaning, labels, repeats, and the tolerance for bad rows.

Called by `dataset`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from finetune_api.dataset import Deduplicate
from finetune_api.run import DataInput, FaultPlace
from finetune_api.status import ResolvedData
from finetune_trainer.data.formats import READERS, format_of
from finetune_trainer.data.records import Fault, Record
from finetune_trainer.data.rows import Reading, Row, rows_of
from finetune_trainer.errors import DataError, NotFoundError, input_errors
from finetune_trainer.files import sha256


@dataclass(frozen=True)
class Source:
    """The rows of one file, and what was found on the way."""

    field: str
    name: str
    rows: list[Row]
    resolved: ResolvedData


def read_source(field: str, data: DataInput, reading: Reading, seen: set[int]) -> Source:
    """Read a file; `seen` holds the texts read before and is added to.

    Raises NotFoundError for the file, ConfigurationError for its format, DataError with file, row and column.
    """
    name, path = data.uri or data.path, Path(data.path)
    with input_errors(name, field):
        if path.is_dir():
            raise NotFoundError(
                f"{field}: {name} is a folder; name a file in it", FaultPlace(field=field, file=name)
            )
        digest = sha256(path)
        records = READERS[format_of(field, data, reading)](path, reading.wanted.values())
        usable, invalid = _sift(field, name, records, reading)
    rows = [row for row in usable if _is_new(row, reading, seen)]
    if not rows:
        raise DataError(f"{field}: {name} holds no usable row", FaultPlace(field=field, file=name))
    resolved = ResolvedData(
        uri=data.uri,
        digest=f"sha256:{digest}",
        rows=len(rows),
        invalid_rows=invalid,
        duplicate_rows=len(usable) - len(rows),
    )
    return Source(field, name, rows, resolved)


def _sift(
    field: str, name: str, records: Iterable[Record | Fault], reading: Reading
) -> tuple[list[Row], int]:
    """The usable rows and the number of others; raises once there are more of those than allowed."""
    allowed, rows, faults = reading.max_invalid_rows, list[Row](), list[Fault]()
    for found in rows_of(records, reading):
        if isinstance(found, Row):
            rows.append(found)
            continue
        faults.append(found)
        if found.fatal or (not allowed.endswith("%") and len(faults) > int(allowed)):
            raise _too_many(field, name, faults, allowed)
    share_exceeded = allowed.endswith("%") and len(faults) * 100 > float(allowed[:-1]) * (
        len(rows) + len(faults)
    )
    if share_exceeded or (faults and not rows):
        raise _too_many(field, name, faults, allowed)
    return rows, len(faults)


def _too_many(field: str, name: str, faults: list[Fault], allowed: str) -> DataError:
    first = faults[-1] if faults[-1].fatal else faults[0]
    column = f", column {first.column}" if first.column else ""
    several = (
        f" ({len(faults)} rows cannot be used, and dataset.maxInvalidRows is {allowed})"
        if allowed != "0" and not first.fatal
        else ""
    )
    return DataError(
        f"{name}, row {first.line}{column} {first.reason}{several}",
        FaultPlace(field=field, file=name, row=first.line, column=first.column),
    )


def _is_new(row: Row, reading: Reading, seen: set[int]) -> bool:
    if reading.preprocessing.deduplicate is Deduplicate.NONE:
        return True
    digest = row.digest()
    if digest in seen:
        return False
    seen.add(digest)
    return True
