"""Reads one data file into Rows: columns, cleaning, labels, repeats, and the tolerance for bad rows.

Called by `dataset`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.dataset import ColumnsSpec, DataFormat, Deduplicate, PreprocessingSpec
from finetune_api.run import DataInput, FaultPlace
from finetune_api.status import ResolvedData
from finetune_trainer.data.cleaning import Clean, cleaner
from finetune_trainer.data.records import ENDINGS, READERS, Fault, Record
from finetune_trainer.errors import ConfigurationError, DataError, NotFoundError, input_errors
from finetune_trainer.files import sha256

ReadLabel = Callable[[object], str | float]
"""Reads a label as written in the file; raises ValueError with the end of a sentence, 'is not …'."""


@dataclass(frozen=True)
class Row:
    """One usable example."""

    line: int
    text: str
    pair: str | None
    label: str | float
    group: str | None

    def digest(self) -> bytes:
        """Identity of the texts, for dropping repeats."""
        joined = self.text if self.pair is None else f"{len(self.text)}:{self.text}{self.pair}"
        return hashlib.blake2b(joined.encode(errors="surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class Reading:
    """How files are read; the same for training, validation and test rows."""

    columns: ColumnsSpec
    preprocessing: PreprocessingSpec
    max_invalid_rows: str
    read_label: ReadLabel
    group_by: str | None = None


@dataclass(frozen=True)
class Source:
    """The rows of one file, and what was found on the way."""

    field: str
    name: str
    rows: list[Row]
    resolved: ResolvedData


def read_source(field: str, data: DataInput, reading: Reading, seen: set[bytes]) -> Source:
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
        records = READERS[_format(field, name, data)](path)
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


def _format(field: str, name: str, data: DataInput) -> DataFormat:
    found = (
        data.format or ENDINGS.get(Path(name).suffix.lower()) or ENDINGS.get(Path(data.path).suffix.lower())
    )
    if found is None:
        raise ConfigurationError(
            f"{field}: the ending of {name} does not tell its format; set {field}.format to jsonl or csv",
            FaultPlace(field=f"{field}.format", file=name),
        )
    return found


def _sift(
    field: str, name: str, records: Iterable[Record | Fault], reading: Reading
) -> tuple[list[Row], int]:
    """The usable rows and the number of others; raises once there are more of those than allowed."""
    allowed, rows, faults = reading.max_invalid_rows, list[Row](), list[Fault]()
    for found in _rows(records, reading):
        if isinstance(found, Row):
            rows.append(found)
            continue
        faults.append(found)
        if not allowed.endswith("%") and len(faults) > int(allowed):
            raise _too_many(field, name, faults, allowed)
    share_exceeded = allowed.endswith("%") and len(faults) * 100 > float(allowed[:-1]) * (
        len(rows) + len(faults)
    )
    if share_exceeded or (faults and not rows):
        raise _too_many(field, name, faults, allowed)
    return rows, len(faults)


def _too_many(field: str, name: str, faults: list[Fault], allowed: str) -> DataError:
    first = faults[0]
    column = f", column {first.column}" if first.column else ""
    several = (
        f" ({len(faults)} rows cannot be used, and dataset.maxInvalidRows is {allowed})"
        if allowed != "0"
        else ""
    )
    return DataError(
        f"{name}, row {first.line}{column} {first.reason}{several}",
        FaultPlace(field=field, file=name, row=first.line, column=first.column),
    )


def _rows(records: Iterable[Record | Fault], reading: Reading) -> Iterator[Row | Fault]:
    clean = cleaner(reading.preprocessing)
    for record in records:
        yield record if isinstance(record, Fault) else _row(record, reading, clean)


def _row(record: Record, reading: Reading, clean: Clean) -> Row | Fault:
    names = (reading.columns.text, reading.columns.text_pair, reading.columns.label, reading.group_by)
    for name in names:
        if name is not None and name not in record.fields:
            there = ", ".join(map(str, record.fields)) or "none"
            return Fault(record.line, f"is missing; the columns there are {there}", name)
    values: dict[str, Any] = {}
    for name, target in zip(names, ("text", "pair", "label", "group"), strict=True):
        try:
            values[target] = None if name is None else _value(target, record.fields[name], reading, clean)
        except ValueError as error:
            return Fault(record.line, str(error), name)
    return Row(record.line, **values)


def _value(target: str, value: Any, reading: Reading, clean: Clean) -> str | float:
    if target == "label":
        return reading.read_label(value)
    if target == "group":
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"is not a text but {'null' if value is None else type(value).__name__}")
    text, least = clean(value), reading.preprocessing.min_characters
    if len(text) < least:
        raise ValueError("is empty" if not text else f"has {len(text)} characters, fewer than {least}")
    return text


def _is_new(row: Row, reading: Reading, seen: set[bytes]) -> bool:
    if reading.preprocessing.deduplicate is Deduplicate.NONE:
        return True
    digest = row.digest()
    if digest in seen:
        return False
    seen.add(digest)
    return True
