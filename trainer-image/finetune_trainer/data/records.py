"""Reads text files of rows: every line becomes a Record or a RowError with its line number.

Columns have no meaning here. A line that is far too long is skipped in pieces, so that memory stays small whatever
the file holds.
"""

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_trainer.data.charset import not_utf8
from finetune_trainer.data.detect import DAMAGED, UNPACKING_ERRORS, open_data, separator_of

BOM = b"\xef\xbb\xbf"
HEADER_AGAIN = "repeats the names of the columns: files seem to be joined with their headers; remove this row"
LONGEST_ROW = 8 * 1024 * 1024
"""Bytes: a row beyond that is a file put together wrongly, and would take gigabytes to tokenize."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Record:
    """One row as it stands in the file."""

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class RowError:
    """One row that cannot be used, and why, as the end of a sentence: 'is not JSON …'."""

    line: int
    reason: str
    column: str | None = None
    fatal: bool = False
    """Nothing after it can be read either, so no tolerance for bad rows applies."""
    rows: int = 1
    """How many it counts for: behind a stray quote the lines up to the next one are no rows either."""


class RepeatedKeyError(ValueError):
    """An object in a JSON row has a key twice, of which Python would keep the last one; the reason of an error."""

    def __init__(self, key: str) -> None:
        super().__init__(f"has the key {key[:40]!r} more than once in an object; remove one of them")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(key for key, _ in pairs)
        raise RepeatedKeyError(next(key for key, count in times.items() if count > 1))
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object)
"""Raises RepeatedKeyError, and what json.loads raises."""


def too_long(size: int, unit: str) -> str:
    """The reason of an error."""
    return (
        f"has {size:,} {unit}, more than the {LONGEST_ROW:,} that a row may have; split it into several rows"
    )


def _lines(path: Path) -> Iterator[tuple[int, bytes | RowError]]:
    """Lines from 1 without a byte order mark; a RowError in place of one that is too long or cannot be unpacked."""
    number = 0
    try:
        for number, line in _raw_lines(path):
            yield number, line
    except UNPACKING_ERRORS:
        yield number + 1, RowError(number + 1, f"cannot be read: {DAMAGED}", fatal=True)


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes | RowError]]:
    with open_data(path) as file:
        number = 0
        while raw := file.readline(LONGEST_ROW + 1):
            number, size, last = number + 1, len(raw), raw
            while size > LONGEST_ROW and last and not last.endswith(b"\n"):
                last = file.readline(LONGEST_ROW)
                size += len(last)
            if size > LONGEST_ROW + 1:
                yield number, RowError(number, too_long(size, "bytes"))
            else:
                yield number, raw.removeprefix(BOM) if number == 1 else raw


def read_jsonl(path: Path, _wanted: Collection[str] = ()) -> Iterator[Record | RowError]:
    """One JSON object per line, UTF-8; empty lines are skipped."""
    for number, line in _lines(path):
        if isinstance(line, RowError):
            yield line
        elif line.strip():
            yield _parse_json(number, line)


def _parse_json(number: int, line: bytes) -> Record | RowError:
    try:
        value = DECODER.decode(line.rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        return RowError(number, not_utf8(error))
    except RepeatedKeyError as error:
        return RowError(number, str(error))
    except (ValueError, RecursionError) as error:
        return RowError(number, not_json(error))
    return record_of(number, value, line)


def not_json(error: Exception) -> str:
    """The reason of an error: what Python's parser says; its limits are on digits and on nesting."""
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {error.msg}, character {error.colno}{_json_remedy(error)}"
    if isinstance(error, RecursionError):
        return "has lists or objects nested too deeply; write a row as a flat object"
    return (
        f"has a number of more than {sys.get_int_max_str_digits():,} digits; write it as a text, or remove it"
    )


def _json_remedy(error: json.JSONDecodeError) -> str:
    """What to do where the text shows what wrote it."""
    rest = error.doc[error.pos :].strip()
    if error.msg == "Extra data" and rest == ",":
        return "; remove the comma at the end of the line"
    if error.msg == "Extra data" and rest.startswith("{"):
        return "; write one object per line"
    if rest.startswith("'"):
        return "; JSON has double quotes: write rows with json.dumps, not str"
    if re.match(r"(None|True|False)\b", rest):
        return "; JSON has null, true and false: write rows with json.dumps, not str"
    return ""


def record_of(number: int, value: Any, written: bytes) -> Record | RowError:
    """The row that a JSON value stands for."""
    if _SURROGATE.search(written) and not _is_text(value):
        return RowError(number, "has half a character: a \\ud800 to \\udfff without its other half")
    if not isinstance(value, dict):
        written_so = json.dumps(value, ensure_ascii=False)[:40]
        return RowError(
            number,
            f"is not a JSON object but {written_so}; write a row as an object with the names of the columns",
        )
    return Record(number, value)


def _is_text(value: Any) -> bool:
    """Whether all of it can be written: JSON can escape one half of a surrogate pair, no tokenizer takes it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def read_text(path: Path, _wanted: Collection[str] = ()) -> Iterator[Record | RowError]:
    """One text per line in a column named text, UTF-8; empty lines are skipped."""
    for number, line in _lines(path):
        if isinstance(line, RowError):
            yield line
        elif line.strip():
            try:
                yield Record(number, {"text": line.rstrip(b"\r\n").decode()})
            except UnicodeDecodeError as error:
                yield RowError(number, not_utf8(error))


def read_csv(path: Path, wanted: Collection[str] = ()) -> Iterator[Record | RowError]:
    """Separated values with a header (RFC 4180), UTF-8; a row's line is the one it begins on.

    The separator is the one by which the header has the wanted columns: comma, tab, semicolon or vertical bar.
    """
    unreadable: dict[int, RowError] = {}
    reader = _csv_reader(path, wanted, unreadable)
    try:
        header: list[str] = next(reader, [])
    except csv.Error as error:
        yield RowError(1, f"is the header and not CSV: {_remedied(str(error))}", fatal=True)
        return
    flaw = unreadable.get(1) or _header_flaw(header)
    if flaw:
        yield flaw
        return
    while True:
        first = reader.line_num + 1
        unreadable.clear()
        try:
            values = next(reader, None)
        except csv.Error as error:
            yield _csv_error(first, reader.line_num, str(error))
            continue
        if unreadable:
            yield _in_column(next(iter(unreadable.values())), header, values or [])
        elif values:
            yield _csv_record(first, header, values)
        if values is None:
            return


def _csv_reader(path: Path, wanted: Collection[str], unreadable: dict[int, RowError]) -> Any:
    csv.field_size_limit(LONGEST_ROW)
    separator = separator_of(next(_decoded(path, {}), ""), wanted)
    return csv.reader(_decoded(path, unreadable), strict=True, delimiter=separator)


def csv_header(path: Path, wanted: Collection[str]) -> tuple[list[str], str]:
    """The names of the columns, none if they cannot be read, and what separates the fields."""
    reader = _csv_reader(path, wanted, {})
    try:
        return next(reader, []), reader.dialect.delimiter
    except csv.Error:
        return [], reader.dialect.delimiter


def _in_column(error: RowError, header: list[str], values: list[str]) -> RowError:
    """The error with the column that has the byte, which was decoded as a surrogate."""
    columns = (
        name for name, value in zip(header, values, strict=False) if re.search("[\udc80-\udcff]", value)
    )
    return replace(error, column=next(columns, None))


def _remedied(error: str) -> str:
    if "new-line character" in error:
        return "its lines end with a carriage return alone; convert them to line feeds"
    return f"{error}; fix the quoting"


def _csv_error(first: int, last: int, error: str) -> RowError:
    if error == "unexpected end of data":
        reason = f"opens a quote that is never closed, which hides lines {first} to {last}; fix the quoting"
        return RowError(first, reason, fatal=True)
    return RowError(first, f"is not CSV: {error}", rows=last - first + 1)


def _header_flaw(header: list[str]) -> RowError | None:
    if not header:
        return RowError(1, "is empty and no header; begin the file with the names of its columns", fatal=True)
    if header[0].casefold().startswith("sep="):
        return RowError(1, "is Excel's line about the separator; remove it, it is recognized", fatal=True)
    repeated = [name for name in header if name and header.count(name) > 1]
    if not repeated:
        return None
    return RowError(
        1, f"is the header and names column {repeated[0]!r} more than once; rename one of them", fatal=True
    )


def _decoded(path: Path, unreadable: dict[int, RowError]) -> Iterator[str]:
    for number, line in _lines(path):
        if isinstance(line, RowError):
            unreadable[number] = line
            yield "\n"
            continue
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            unreadable[number] = RowError(number, not_utf8(error))
            yield line.decode(errors="surrogateescape")


def _name_of(value: str) -> str:
    return value.strip("\ufeff \t").casefold()


def _csv_record(line: int, header: list[str], values: list[str]) -> Record | RowError:
    if sorted(map(_name_of, values)) == sorted(map(_name_of, header)):
        return RowError(line, HEADER_AGAIN)
    if len(values) != len(header):
        return RowError(line, f"has {len(values)} fields where the header has {len(header)}")
    return Record(line, dict(zip(header, values, strict=True)))
