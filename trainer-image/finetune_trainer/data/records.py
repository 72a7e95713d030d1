"""Reads data files: every line becomes a Record or a Fault with its line number.

Called by `sources`; knows nothing of columns' meaning.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.dataset import DataFormat

BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Record:
    """One row as it stands in the file."""

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """One row that cannot be used, and why, as the end of a sentence: 'is not JSON …'."""

    line: int
    reason: str
    column: str | None = None


def read_jsonl(path: Path) -> Iterator[Record | Fault]:
    """One JSON object a line, UTF-8; empty lines are passed over."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(BOM) if number == 1 else raw
            if line.strip():
                yield _parse_json(number, line)


def _parse_json(number: int, line: bytes) -> Record | Fault:
    try:
        value = json.loads(line.rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        return Fault(number, f"is not UTF-8 (byte {error.start + 1} of the line)")
    except (ValueError, RecursionError) as error:
        reason = (
            f"{error.msg}, character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        )
        return Fault(number, f"is not JSON: {reason}")
    if _SURROGATE.search(line) and not _is_text(value):
        return Fault(number, "has half a character: a \\ud800 to \\udfff without its other half")
    if not isinstance(value, dict):
        return Fault(number, f"is not a JSON object but {json.dumps(value, ensure_ascii=False)[:40]}")
    return Record(number, value)


def _is_text(value: Any) -> bool:
    """Whether all of it can be written: JSON can escape one half of a surrogate pair, no tokenizer takes it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def read_csv(path: Path) -> Iterator[Record | Fault]:
    """Comma-separated values with a header (RFC 4180), UTF-8; a row's line is the one it begins on."""
    csv.field_size_limit(2**31 - 1)
    undecodable: set[int] = set()
    with path.open("rb") as file:
        reader = csv.reader(_lines(file, undecodable), strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            yield Fault(1, f"is the header and not CSV: {error}; mend its quotes")
            return
        while True:
            first = reader.line_num + 1
            try:
                values = next(reader, None)
            except csv.Error as error:
                yield Fault(first, f"is not CSV: {error}")
                continue
            if values is None:
                return
            if values:
                bad = undecodable.intersection(range(first, reader.line_num + 1))
                yield Fault(min(bad), "is not UTF-8") if bad else _csv_record(first, header, values)


def _lines(file: Iterator[bytes], undecodable: set[int]) -> Iterator[str]:
    for number, raw in enumerate(file, start=1):
        line = raw.removeprefix(BOM) if number == 1 else raw
        try:
            yield line.decode()
        except UnicodeDecodeError:
            undecodable.add(number)
            yield line.decode(errors="replace")


def _csv_record(line: int, header: list[str], values: list[str]) -> Record | Fault:
    if len(values) != len(header):
        return Fault(line, f"has {len(values)} fields where the header has {len(header)}")
    return Record(line, dict(zip(header, values, strict=True)))


READERS: dict[DataFormat, Callable[[Path], Iterator[Record | Fault]]] = {
    DataFormat.JSONL: read_jsonl,
    DataFormat.CSV: read_csv,
}
ENDINGS = {".jsonl": DataFormat.JSONL, ".ndjson": DataFormat.JSONL, ".csv": DataFormat.CSV}
