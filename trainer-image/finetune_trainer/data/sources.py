"""Reads a data file: for its digest, for its checks, for its rows.

First `scan` streams it: every row is checked, and a few numbers of it are kept, some 40 bytes a row, from which
duplicates are dropped and the split is decided. A `Source` then streams the rows that were chosen, whenever it is
iterated. So memory does not grow with the size of the texts."""

import hashlib
import logging
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from finetune_api.dataset import DataFormat
from finetune_api.run import DataInput, FaultPlace
from finetune_api.status import ResolvedData
from finetune_trainer.data.deduplicate import Deduplicator, Digests
from finetune_trainer.data.formats import READERS, format_of
from finetune_trainer.data.labels import Labels
from finetune_trainer.data.records import Record, RowError
from finetune_trainer.data.rejected import Rejected
from finetune_trainer.data.rows import ReadOptions, Row, digest64, rows_of
from finetune_trainer.errors import DataError, NotFoundError, input_errors
from finetune_trainer.files import sha256

logger = logging.getLogger(__name__)

Indices = npt.NDArray[np.int64]
CHECK_EVERY = 4096
"""Rows between two looks at whether the run is to stop."""


class Rows(Protocol):
    """Rows that can be read again and again."""

    def __len__(self) -> int:
        """Their number."""

    def __iter__(self) -> Iterator[Row]:
        """In the order of the file."""


@dataclass(frozen=True)
class Source:
    """Some rows of one file, and what was found while reading."""

    field: str
    name: str
    rows: Rows
    resolved: ResolvedData
    digest: str = ""
    """sha256 of the file, the rows chosen and how they are read."""


@dataclass(frozen=True)
class FileIndex:
    """What is kept of the usable rows of a file: an entry of each array a row."""

    field: str
    name: str
    path: Path
    format: DataFormat
    options: ReadOptions
    resolved: ResolvedData
    lines: Indices
    digests: Digests
    groups: Digests | None
    labels: Labels

    def __len__(self) -> int:
        return len(self.lines)

    def take(self, rows: Indices) -> "FileIndex":
        """Some of the rows, in the order of the file."""
        return replace(
            self,
            lines=self.lines[rows],
            digests=self.digests[rows],
            groups=None if self.groups is None else self.groups[rows],
            labels=self.labels.take(rows) if self.labels else self.labels,
            resolved=self.resolved.model_copy(update={"rows": len(rows)}),
        )

    @property
    def source(self) -> Source:
        """The rows, to be read again."""
        read = self.options.preprocessing.model_dump_json(exclude={"packing"})
        decisive = f"{self.resolved.digest} {self.format} {self.options.wanted} {read} ".encode()
        digest = hashlib.sha256(decisive + self.lines.tobytes()).hexdigest()
        return Source(self.field, self.name, _Streamed(self), self.resolved, digest)


class _Streamed:
    """The rows at some lines of a file, read anew each time."""

    def __init__(self, index: FileIndex) -> None:
        self.field, self.name, self.path, self.format = index.field, index.name, index.path, index.format
        self.options, self.lines = index.options, index.lines

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[Row]:
        with input_errors(self.name, self.field):
            count = 0
            for row in rows_of(self._chosen(), self.options):
                if isinstance(row, RowError):
                    break
                yield row
                count += 1
        if count < len(self):
            raise DataError(
                f"{self.field}: {self.name} changed while it was read; start again once nothing writes to it",
                FaultPlace(field=self.field, file=self.name),
            )

    def _chosen(self) -> Iterator[Record | RowError]:
        lines = iter(self.lines.tolist() if len(self.lines) < CHECK_EVERY else self.lines)
        wanted = next(lines, None)
        for record in READERS[self.format](self.path, self.options.wanted.values()):
            if wanted is None:
                return
            if record.line == wanted:
                yield record
                wanted = next(lines, None)


def scan(
    field: str,
    data: DataInput,
    options: ReadOptions,
    duplicates: Deduplicator,
    check: Callable[[], None] = lambda: None,
) -> FileIndex:
    """Read a file; `duplicates` knows the texts read before and is added to; `check` is called now and then.

    Raises NotFoundError for the file, ConfigurationError for its format, DataError with file, row and column.
    """
    name, path = data.uri or data.path, Path(data.path)
    with input_errors(name, field):
        if path.is_dir():
            raise NotFoundError(
                f"{field}: {name} is a folder; name a file in it", FaultPlace(field=field, file=name)
            )
        kind = format_of(field, data, options)
        digest = sha256(path)
        kept = IndexBuilder(field, name, options, duplicates)
        for number, found in enumerate(rows_of(READERS[kind](path, options.wanted.values()), options)):
            if number % CHECK_EVERY == 0:
                check()
            kept.add(found)
    kept.check_share()
    resolved = ResolvedData(
        uri=data.uri,
        revision=data.revision,
        digest=f"sha256:{digest}",
        rows=len(kept.lines),
        invalid_rows=kept.rejected.rows,
        invalid_reasons=kept.rejected.reported() or None,
    )
    everything = kept.build(path, kind, resolved)
    new = duplicates.is_new(everything.digests)
    chosen = everything if new.all() else everything.take(np.flatnonzero(new))
    if not len(chosen):
        raise DataError(f"{field}: {name} holds no usable row", FaultPlace(field=field, file=name))
    counted = {"duplicate_rows": len(everything) - len(chosen)}
    if conflicts := conflicting(everything, new):
        counted["conflicting_duplicates"] = len(conflicts)
        line, first = conflicts[0]
        logger.warning(
            f"{name}: {len(conflicts)} of the dropped duplicates have another label than the row that was kept, for"
            f" example row {line} and row {first}; one of the labels is wrong"
        )
    if kept.rejected.rows:
        logger.warning(f"{name}: skipped {kept.rejected.described()}")
    if kept.ungrouped:
        logger.info(f"{name}: {kept.ungrouped} rows have no {options.group_by}; each is a separate group")
    return replace(chosen, resolved=chosen.resolved.model_copy(update=counted))


def conflicting(index: FileIndex, new: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Rows of dropped duplicates whose label differs from that of the equal text before them, with that one's row."""
    repeated = new & np.isin(index.digests, index.digests[~new])
    first = {int(index.digests[row]): row for row in np.flatnonzero(repeated)}
    pairs = ((row, first.get(int(index.digests[row]))) for row in np.flatnonzero(~new))
    return [
        (int(index.lines[row]), int(index.lines[kept]))
        for row, kept in pairs
        if kept is not None and index.options.labelled and index.labels[row] != index.labels[kept]
    ]


class IndexBuilder:
    """Grows row by row to a FileIndex, and counts the rows that cannot be used."""

    def __init__(self, field: str, name: str, options: ReadOptions, duplicates: Deduplicator) -> None:
        self.field, self.name, self.options, self.duplicates = field, name, options, duplicates
        self.lines, self.digests, self.groups, self.labels = array("q"), array("Q"), array("Q"), Labels()
        self.rejected, self.first = Rejected(), RowError(0, "")
        self.ungrouped = 0

    def add(self, found: Row | RowError) -> None:
        """Raises DataError once more rows than allowed are faulty."""
        if isinstance(found, RowError):
            self._count(found)
            return
        self.lines.append(found.line)
        self.digests.append(found.digest())
        self.duplicates.add(found)
        if self.options.group_by:
            self.ungrouped += found.group is None
            self.groups.append(digest64(f"\0{found.line}" if found.group is None else found.group))
        if self.options.labelled:
            self.labels.append(found.label)

    def _count(self, error: RowError) -> None:
        if not self.rejected.rows or error.fatal:
            self.first = error
        self.rejected.add(error)
        allowed = self.options.max_invalid_rows
        if error.fatal or (not allowed.endswith("%") and self.rejected.rows > int(allowed)):
            raise self._refused()

    def check_share(self) -> None:
        """Raises DataError where the share of faulty rows is too large, or no other is left."""
        allowed, invalid = self.options.max_invalid_rows, self.rejected.rows
        rows = len(self.lines) + invalid
        too_many = allowed.endswith("%") and invalid * 100 > float(allowed[:-1]) * rows
        if too_many or (invalid and not self.lines):
            raise self._refused()

    def _refused(self) -> DataError:
        first, allowed = self.first, self.options.max_invalid_rows
        column = f", column {first.column}" if first.column else ""
        reasons = f": {self.rejected.described()[:300]}" if self.rejected.several else ""
        several = (
            f" ({self.rejected.rows} rows cannot be used, and dataset.maxInvalidRows is {allowed}{reasons})"
        )
        return DataError(
            f"{self.name}, row {first.line}{column} {first.reason}"
            f"{'' if allowed == '0' or first.fatal else several}",
            FaultPlace(field=self.field, file=self.name, row=first.line, column=first.column),
        )

    def build(self, path: Path, kind: DataFormat, resolved: ResolvedData) -> FileIndex:
        """What was kept, as arrays."""
        return FileIndex(
            field=self.field,
            name=self.name,
            path=path,
            format=kind,
            options=self.options,
            resolved=resolved,
            lines=np.asarray(self.lines, dtype=np.int64),
            digests=np.asarray(self.digests, dtype=np.uint64),
            groups=np.asarray(self.groups, dtype=np.uint64) if self.options.group_by else None,
            labels=self.labels,
        )


def shared_texts(train: FileIndex, held_out: FileIndex) -> int:
    """How many held-out rows have a text that stands in the training rows."""
    return int(np.isin(held_out.digests, train.digests).sum())
