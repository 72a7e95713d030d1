"""Finds out from its first bytes how a text file is written, and what a file is that cannot be read."""

import gzip
import re
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO
from zipfile import BadZipFile, ZipFile

HEAD = 65_536
DAMAGED = "the gzip file is truncated or damaged"
UNPACKING_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)
GZIP = b"\x1f\x8b"
GIT_LFS = b"version https://git-lfs"
_NOT_TEXT = {
    b"PAR1": "a Parquet file; set format to parquet",
    b"ARROW1": "an Arrow file; set format to arrow",
    b"\xff\xff\xff\xff": "an Arrow stream; set format to arrow",
    b"FEA1": "a Feather file of version 1; write it as Parquet",
    b"\xd0\xcf\x11\xe0": "an old Office file such as .xls; save it as CSV UTF-8",
    b"BZh": "compressed with bzip2; use gzip, or unpack it",
    b"\xfd7zXZ": "compressed with xz; use gzip, or unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; use gzip, or unpack it",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"%PDF": "a PDF file; extract its text",
    b"SQLite format 3": "a SQLite database; export the table as CSV",
    b"\x89HDF": "an HDF5 file; write it as Parquet",
    b"\x93NUMPY": "a NumPy array; write it as JSON lines",
    b"\x80\x02": "a pickle, which can run code when loaded; write it as Parquet, for example with to_parquet()",
    b"\x80\x03": "a pickle, which can run code when loaded; write it as Parquet, for example with to_parquet()",
    b"\x80\x04": "a pickle, which can run code when loaded; write it as Parquet, for example with to_parquet()",
    b"\x80\x05": "a pickle, which can run code when loaded; write it as Parquet, for example with to_parquet()",
    GIT_LFS: "a Git LFS pointer and not the file itself; fetch it with git lfs pull",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
}
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}


def head_of(path: Path) -> bytes:
    """The first bytes of a file, unpacked."""
    with open_data(path) as file:
        try:
            return file.read(HEAD)
        except UNPACKING_ERRORS as error:
            raise OSError(DAMAGED) from error


def open_data(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacked where it is gzip."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    return gzip.open(path) if packed else path.open("rb")  # type: ignore[return-value]


def why_not_text(path: Path, head: bytes) -> str | None:
    """What a file is, and the remedy, as the end of 'is …'; None for text."""
    if head.startswith(b"PK\x03\x04"):
        return _zipped(path)
    for magic, what in _NOT_TEXT.items():
        if head.startswith(magic):
            return what
    if head.count(b"\0") > len(head) // 4:
        return "UTF-16 text without a byte order mark, or binary; save it as UTF-8 text"
    if json := _json_by_column(head):
        return json
    return _page(head)


def why_not_binary(head: bytes) -> str | None:
    """What is in the place of a Parquet or Arrow file, and the remedy, as the end of 'is …'; None for another file."""
    return _NOT_TEXT[GIT_LFS] if head.startswith(GIT_LFS) else _page(head)


def _page(head: bytes) -> str | None:
    if re.match(rb"\s*(<!doctype html|<html)", head, re.IGNORECASE):
        return "an HTML page and not data; was it downloaded from a page that asks for a login?"
    return None


def _json_by_column(head: bytes) -> str | None:
    """One JSON object that is no row: over several lines, or a whole table in one line."""
    pretty = re.match(rb"\s*\{\s*\r?\n", head)
    if not pretty and b"\n" in head.strip():
        return None
    if re.match(rb'\s*\{\s*"(\\.|[^"\\])*"\s*:\s*\{\s*"0"\s*:', head):
        return "one JSON object with pandas' columns; write it with to_json(orient='records', lines=True)"
    if pretty and re.match(rb'\s*\{\s*"(\\.|[^"\\])*"\s*:\s*\[\s*[^\s{]', head):
        return "one JSON object with a list for each column; write one object per row"
    return "JSON over several lines; write one object per line, for example with jq -c ." if pretty else None


def is_json_array(head: bytes) -> bool:
    """Whether it is one array, not an object on each line."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _zipped(path: Path) -> str:
    try:
        with ZipFile(path) as file:
            names = file.namelist()
    except BadZipFile:
        return "a damaged zip archive"
    if any(name.startswith("xl/") for name in names):
        return "an Excel file; save it as CSV UTF-8"
    if any(name.startswith("word/") for name in names):
        return "a Word file; save its text as CSV or JSON lines"
    return "a zip archive; unpack it"


def separator_of(header: str, wanted: Collection[str]) -> str:
    """What separates the fields: the first separator by which the header has the wanted columns, else the comma."""
    for separator in SEPARATORS:
        names = {name.strip('\r\n"') for name in header.split(separator)}
        if set(wanted) <= names and len(names) > 1:
            return separator
    found = max(SEPARATORS, key=header.count)
    return "," if "," in header or found not in header else found
