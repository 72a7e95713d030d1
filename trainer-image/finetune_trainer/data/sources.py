"""Reads data files: for their digest, for their checks, for their rows.

First `scan` streams it: every row is checked, and a few numbers of it are kept, some 40 bytes a row, from which
duplicates are dropped and the split is decided. A `Source` then streams the rows that were chosen, whenever it is
iterated. So memory does not grow with the size of the texts."""

import hashlib
import logging
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from finetune_api.dataset import RowFormat
from finetune_api.run import DataInput, FaultPlace
from finetune_api.status import ResolvedData
from finetune_trainer.data.chat.choice import answer_columns, answers_in_messages, chat_form
from finetune_trainer.data.chat.conversation import Conversation
from finetune_trainer.data.class_labels import by_name
from finetune_trainer.data.deduplicate import Deduplicator, Digests
from finetune_trainer.data.detect import SEPARATORS
from finetune_trainer.data.files import Files, Versions, find_files, place_of
from finetune_trainer.data.formats import Layout, layout_of, read_records
from finetune_trainer.data.labels import Labels
from finetune_trainer.data.records import Record, RowError
from finetune_trainer.data.rejected import Rejected
from finetune_trainer.data.rows import ReadOptions, Row, digest64, rows_of
from finetune_trainer.data.unread import UnreadColumns
from finetune_trainer.errors import DataError, input_errors
from finetune_trainer.objectives.labels import named

logger = logging.getLogger(__name__)

Indices = npt.NDArray[np.int64]
MOST_KEYS = 20
"""Keys of messages that are counted."""
CHECK_EVERY = 4096
"""Rows between two looks at whether the run is to stop."""


class Rows(Protocol):
    """Rows that can be read again and again."""

    def __len__(self) -> int:
        """Their number."""

    def __iter__(self) -> Iterator[Row]:
        """In the order of the files."""


@dataclass(frozen=True)
class Beside:
    """A key of messages that only some chat templates write, as Conversation.beside has it."""

    key: str
    rows: int
    line: int
    """Number of the first of them, for `place`."""
    chat: Conversation
    """That of this row."""


@dataclass(frozen=True)
class Source:
    """Some rows of an input, and what was found while reading."""

    field: str
    name: str
    rows: Rows
    resolved: ResolvedData
    digest: str = ""
    """sha256 of the files, the rows chosen and how they are read."""
    files: tuple[str, ...] = ()
    """Names of the files, where there are several."""
    chat: RowFormat | None = None
    """The form of the rows where they are conversations."""
    beside: tuple[Beside, ...] = ()
    """Of the whole input, duplicates too."""

    def place(self, number: int) -> tuple[str, int]:
        """The file of a row, and its row there."""
        return place_of(number, self.name, self.files)


@dataclass(frozen=True)
class FileIndex:
    """What is kept of the usable rows of an input: an entry of each array a row."""

    field: str
    files: Files
    versions: Versions
    layout: Layout
    options: ReadOptions
    resolved: ResolvedData
    lines: Indices
    digests: Digests
    groups: Digests | None
    labels: Labels
    prompts: Digests | None = None
    """Of preferences, those of the prompts."""
    repeating: int = 0
    """Rows of the files, duplicates too, whose answers begin with their prompt."""
    contradicted: int = 0
    """Preferences of the files, duplicates too, of which another row says the opposite."""
    beside: tuple[Beside, ...] = ()
    """Of the files, duplicates too: keys of messages that only some chat templates write."""
    note: str = ""
    """What a user may not have meant by how the rows are read."""

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return self.files.name

    def place(self, row: int) -> tuple[str, int]:
        """The file of one of the rows that were kept, and its row there."""
        return place_of(int(self.lines[row]), self.name, self.files.names)

    @property
    def rows_digest(self) -> str:
        """sha256 of the files' digest and of the numbers of the rows."""
        numbers = self.lines.astype("<i8").tobytes()
        return f"sha256:{hashlib.sha256(f'{self.resolved.digest} '.encode() + numbers).hexdigest()}"

    def take(self, rows: Indices) -> "FileIndex":
        """Some of the rows, in the order of the files."""
        return replace(
            self,
            lines=self.lines[rows],
            digests=self.digests[rows],
            groups=None if self.groups is None else self.groups[rows],
            prompts=None if self.prompts is None else self.prompts[rows],
            labels=self.labels.take(rows) if self.labels else self.labels,
            resolved=self.resolved.model_copy(update={"rows": len(rows)}),
        )

    @property
    def source(self) -> Source:
        """The rows, to be read again."""
        read = self.options.preprocessing.model_dump_json(exclude={"packing"})
        wanted = f"{self.options.wanted}{' in messages' * self.options.in_messages}"
        decisive = f"{self.resolved.digest} {self.layout.format} {wanted} {read} ".encode()
        digest = hashlib.sha256(decisive + self.lines.tobytes()).hexdigest()
        streamed, form = _Streamed(self), self.options.form
        names = self.files.names
        return Source(self.field, self.name, streamed, self.resolved, digest, names, form, self.beside)


class _Streamed:
    """The rows at some lines of the files, read anew each time."""

    def __init__(self, index: FileIndex) -> None:
        self.files, self.versions, self.format = index.files, index.versions, index.layout.format
        self.options, self.lines = index.options, index.lines

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[Row]:
        with input_errors(self.files.name, self.files.field):
            count = 0
            for row in rows_of(self._chosen(), self.options):
                if isinstance(row, RowError):
                    break
                yield row
                count += 1
            _check_unchanged(self.files, self.versions, whole=count == len(self))

    def _chosen(self) -> Iterator[Record | RowError]:
        lines = iter(self.lines.tolist() if len(self.lines) < CHECK_EVERY else self.lines)
        wanted = next(lines, None)
        for record in read_records(self.files, self.format, self.options.wanted.values()):
            if wanted is None:
                return
            if record.line == wanted:
                yield record
                wanted = next(lines, None)


def _check_unchanged(files: Files, versions: Versions, *, whole: bool = True) -> None:
    """Raises DataError if a file was written to or replaced since, or does not have all its rows any more."""
    if not whole or files.versions != versions:
        raise DataError(
            f"{files.field}: {files.name} changed while it was read; start again once nothing writes to it",
            FaultPlace(field=files.field, file=files.name),
        )


def scan(
    field: str,
    data: DataInput,
    options: ReadOptions,
    duplicates: Deduplicator,
    check: Callable[[], None] = lambda: None,
    earlier: Sequence[FileIndex] = (),
) -> FileIndex:
    """Read the files of an input; `check` is called now and then.

    `duplicates` knows the texts of the `earlier` inputs and is added to. Raises NotFoundError for a file,
    ConfigurationError for its format, DataError with file, row and column.
    """
    name = data.uri or data.path
    with input_errors(name, field):
        files = find_files(field, data)
        layout = layout_of(files, data.format, options)
        _log_layout(files, layout)
        note = ""
        if not options.labelled and options.preference is None:
            form, note = chat_form(files, layout, options)
            options = replace(options, chat=form)
        options = replace(options, columns=answer_columns(files, layout, options))
        options = replace(options, in_messages=answers_in_messages(files, layout, options))
        unread = UnreadColumns(files, options, layout.columns)
        if layout.class_names:
            read = by_name(options.read_label, layout.class_names, numbers=options.label_numbers)
            options = replace(options, read_label=read)
        versions, digest = files.versions, files.digest
        kept = IndexBuilder(files, options, duplicates)
        records = read_records(files, layout.format, [*options.wanted.values(), *unread.names])
        for number, found in enumerate(rows_of(unread.counted(records), options, files.names)):
            if number % CHECK_EVERY == 0:
                check()
            kept.add(found)
        _check_unchanged(files, versions)
    kept.check_share()
    resolved = ResolvedData(
        uri=data.uri,
        revision=data.revision,
        digest=f"sha256:{digest}",
        rows=len(kept.lines),
        invalid_rows=kept.rejected.rows,
        invalid_reasons=kept.rejected.reported() or None,
        read_as=options.form,
    )
    everything = kept.build(versions, layout, resolved)
    new = duplicates.is_new(everything.digests)
    chosen = everything if new.all() else everything.take(np.flatnonzero(new))
    if not len(chosen):
        raise DataError(f"{field}: {name} holds no usable row", FaultPlace(field=field, file=name))
    counted = {"duplicate_rows": len(everything) - len(chosen)}
    if conflicts := conflicting(everything, new, earlier):
        counted["conflicting_duplicates"] = len(conflicts)
        logger.warning(
            f"{name}: {len(conflicts)} of the dropped duplicates have another label than the row that was kept, for"
            f" example {_both(*conflicts[0])}; one of the labels is wrong"
        )
    if kept.rejected.rows:
        logger.warning(f"{name}: skipped {kept.rejected.described()}")
    if kept.ungrouped:
        logger.info(f"{name}: {kept.ungrouped} rows have no {options.group_by}; each is a separate group")
    resolved = chosen.resolved.model_copy(update=counted)
    return replace(chosen, resolved=resolved, note=note or unread.described())


def _log_layout(files: Files, layout: Layout) -> None:
    """What was inferred, which a user may not have meant."""
    several = len(files.names) > 1
    if several or files.names != (files.name,):
        ends = f": {files.paths[0].name}" + (f" to {files.paths[-1].name}" if several else "")
        logger.info(f"{files.name}: {len(files.names)} files{ends}")
    if layout.separator != ",":
        logger.info(f"{files.name}: the header shows that {SEPARATORS[layout.separator]} separate the fields")
    if layout.class_names:
        logger.info(f"{files.name}: the schema names the labels: {named(list(layout.class_names))}")


def conflicting(
    index: FileIndex, new: npt.NDArray[np.bool_], earlier: Sequence[FileIndex] = ()
) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """Places of dropped duplicates whose label differs from that of the equal text before them, and the latter's."""
    if not index.options.labelled:
        return []
    dropped, first = np.flatnonzero(~new), dict[int, tuple[FileIndex, int]]()
    for other, kept in [*((each, np.ones(len(each), dtype=np.bool_)) for each in earlier), (index, new)]:
        for row in np.flatnonzero(kept & np.isin(other.digests, index.digests[dropped])):
            first.setdefault(int(other.digests[row]), (other, int(row)))
    pairs = ((int(row), first.get(int(index.digests[row]))) for row in dropped)
    return [
        (index.place(row), found[0].place(found[1]))
        for row, found in pairs
        if found is not None and index.labels[row] != found[0].labels[found[1]]
    ]


def _both(one: tuple[str, int], other: tuple[str, int]) -> str:
    """Two places in a sentence; the file is known where it is the same."""
    (file, row), (other_file, other_row) = one, other
    if file == other_file:
        return f"row {row} and row {other_row}"
    return f"row {row} of {file} and row {other_row} of {other_file}"


class IndexBuilder:
    """Grows row by row to a FileIndex, and counts the rows that cannot be used."""

    def __init__(self, files: Files, options: ReadOptions, duplicates: Deduplicator) -> None:
        self.files, self.options, self.duplicates = files, options, duplicates
        self.lines, self.digests, self.groups, self.labels = array("q"), array("Q"), array("Q"), Labels()
        self.prompts, self.repeating = array("Q"), 0
        self.judged, self.opposite = array("Q"), array("Q")
        self.rejected, self.first = Rejected(files), RowError(0, "")
        self.ungrouped = 0
        self.beside: dict[str, Beside] = {}

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
        if self.options.preference:
            self.prompts.append(digest64(found.pair or ""))
            self.judged.append(digest64(found.judgement()))
            self.opposite.append(digest64(found.judgement(opposite=True)))
        if found.chat is not None:
            self._note(found.line, found.chat, found.rejected_chat or found.chat)
        self.repeating += self.options.asks and found.repeats_prompt

    def _note(self, line: int, chat: Conversation, other: Conversation) -> None:
        for key in sorted(chat.beside | other.beside):
            known = self.beside.get(key) or Beside(key, 0, line, chat if key in chat.beside else other)
            if known.rows or len(self.beside) < MOST_KEYS:
                self.beside[key] = replace(known, rows=known.rows + 1)

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
        file, row = place_of(first.line, self.files.name, self.files.names)
        return DataError(
            f"{file}, row {row}{column} {first.reason}{'' if allowed == '0' or first.fatal else several}",
            FaultPlace(field=self.files.field, file=file, row=row, column=first.column),
        )

    def build(self, versions: Versions, layout: Layout, resolved: ResolvedData) -> FileIndex:
        """What was kept, as arrays."""
        return FileIndex(
            field=self.files.field,
            files=self.files,
            versions=versions,
            layout=layout,
            options=self.options,
            resolved=resolved,
            lines=np.asarray(self.lines, dtype=np.int64),
            digests=np.asarray(self.digests, dtype=np.uint64),
            groups=np.asarray(self.groups, dtype=np.uint64) if self.options.group_by else None,
            labels=self.labels,
            prompts=np.asarray(self.prompts, dtype=np.uint64) if self.options.preference else None,
            repeating=self.repeating,
            beside=tuple(self.beside.values()),
            contradicted=int(np.isin(_digests(self.opposite), _digests(self.judged)).sum()),
        )


def _digests(kept: "array[int]") -> Digests:
    return np.asarray(kept, dtype=np.uint64)


def contradicting(index: FileIndex) -> Indices:
    """The rows whose text stands with another label too, where a row has one label; by text, then by label."""
    strata = index.labels.strata()
    if strata is None:
        return np.empty(0, dtype=np.int64)
    texts, places = np.unique(index.digests, return_inverse=True)
    pairs = np.unique(np.stack([places, strata]), axis=1)
    several = np.bincount(pairs[0], minlength=len(texts)) > 1
    found = np.flatnonzero(several[places])
    return found[np.lexsort((strata[found], places[found]))]


def shared_texts(train: FileIndex, held_out: FileIndex) -> int:
    """How many held-out rows have a text that stands in the training rows."""
    return int(np.isin(held_out.digests, train.digests).sum())


def shared_prompts(train: FileIndex, held_out: FileIndex) -> int:
    """How many held-out rows answer a prompt that training rows answer too, without being equal to one of them."""
    if train.prompts is None or held_out.prompts is None:
        return 0
    other = ~np.isin(held_out.digests, train.digests)
    return int((np.isin(held_out.prompts, train.prompts) & other).sum())
