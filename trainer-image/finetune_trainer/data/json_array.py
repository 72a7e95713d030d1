"""Reads one JSON array of objects, element by element: memory holds one of them and a piece of the file."""

import json
import re
from collections.abc import Collection, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from finetune_trainer.data.charset import not_utf8
from finetune_trainer.data.detect import DAMAGED, UNPACKING_ERRORS, open_data
from finetune_trainer.data.records import (
    DECODER,
    LONGEST_ROW,
    Record,
    RepeatedKeyError,
    RowError,
    not_json,
    record_of,
    too_long,
)

PIECE = 1 << 16
"""Characters read at once; of an object that is longer, twice what is there."""
LONGEST_TOKEN = 16
"""An error so close to the end of what was read may only mean that the rest is not there yet."""
_SPACE = re.compile(r"[ \t\r\n]*")
_LENIENT = json.JSONDecoder()
"""Finds the end of an object with a repeated key."""


class _UnreadableError(ValueError):
    """Nothing after this can be read; says why, as the end of a sentence."""


def read_json_array(path: Path, _wanted: Collection[str] = ()) -> Iterator[Record | RowError]:
    """Its objects, numbered from 1."""
    number = 0
    try:
        with TextIOWrapper(open_data(path), "utf-8-sig", "surrogateescape", newline="") as file:
            for number, (value, written) in enumerate(_elements(_Window(file)), start=1):
                yield _record(number, value, written)
    except _UnreadableError as error:
        yield RowError(number + 1, str(error), fatal=True)
    except UNPACKING_ERRORS:
        yield RowError(number + 1, f"cannot be read: {DAMAGED}", fatal=True)


def _record(number: int, value: Any, written: str) -> Record | RowError:
    if len(written) > LONGEST_ROW:
        return RowError(number, too_long(len(written), "characters"))
    if isinstance(value, RepeatedKeyError):
        return RowError(number, str(value))
    raw = written.encode(errors="surrogateescape")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return RowError(number, not_utf8(error, "row"))
    return record_of(number, value, raw)


class _Window:
    """The part of a file that is being decoded."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at, self._lines = file, "", 0, 1

    def _more(self) -> bool:
        """Forget what was decoded and read on."""
        rest = self._text[self._at :]
        piece = self._file.read(max(PIECE, len(rest)))
        self._lines += self._text.count("\n", 0, self._at)
        self._text, self._at = rest + piece, 0
        return bool(piece)

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found
            self._at = found.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Go past the character that was peeked at."""
        self._at += 1

    def line(self, at: int | None = None) -> int:
        """The line of the file, from 1, of a position in what was read; by default of the next character."""
        return self._lines + self._text.count("\n", 0, self._at if at is None else at)

    def decode(self) -> tuple[Any, str]:
        """The next value, or what is wrong with it alone, and how it is written."""
        self.peek()
        more = True
        while True:
            try:
                value, end = self._value()
            except json.JSONDecodeError as error:
                self._check(error, more)
            except (ValueError, RecursionError) as error:
                raise _UnreadableError(not_json(error)) from error
            else:
                if end < len(self._text) or not more:
                    written = self._text[self._at : end]
                    self._at = end
                    return value, written
            more = self._more()

    def _value(self) -> tuple[Any, int]:
        try:
            return DECODER.raw_decode(self._text, self._at)
        except RepeatedKeyError as error:
            return error, _LENIENT.raw_decode(self._text, self._at)[1]

    def _check(self, error: json.JSONDecodeError, more: bool) -> None:
        """Raises _UnreadableError, unless the value may only need more of the file."""
        there = len(self._text) - self._at
        open_quote = error.msg.startswith("Unterminated string")
        if error.pos < len(self._text) - (LONGEST_TOKEN if more else 0) and not open_quote:
            place = (
                f"line {self.line(error.pos)} of the file, character {error.pos - self._at + 1} of the row"
            )
            raise _UnreadableError(f"is not JSON: {error.msg}, {place}")
        if not more:
            raise _UnreadableError("is incomplete: the file ends within it; it is truncated")
        if there > LONGEST_ROW:
            raise _UnreadableError(f"{too_long(there, 'characters')}, or close its quotes")


def _elements(window: _Window) -> Iterator[tuple[Any, str]]:
    window.peek()
    window.skip()
    following = window.peek()
    while following != "]":
        yield window.decode()
        following = window.peek()
        if following == ",":
            window.skip()
            following = window.peek()
            if following in ("]", ","):
                place = f"line {window.line()} of the file"
                raise _UnreadableError(
                    f"is missing: a comma stands before {following!r}, {place}; remove the comma"
                )
        elif not following:
            raise _UnreadableError("is missing: the file ends before its array does; it is truncated")
        elif following != "]":
            raise _UnreadableError(
                f"begins with {following!r}, where a comma or the end of the array must be"
            )
    window.skip()
    if window.peek():
        raise _UnreadableError(
            "comes after the end of the array; if files were joined, write one array, or one object per line"
        )
