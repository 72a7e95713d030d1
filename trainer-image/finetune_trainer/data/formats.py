"""Formats of data files, and what is the same in all files of an input: format, columns, names of classes."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.dataset import DataFormat
from finetune_api.run import FaultPlace
from finetune_trainer.data.arrow import arrow_schema, parquet_schema, read_arrow, read_parquet
from finetune_trainer.data.class_labels import class_names
from finetune_trainer.data.detect import head_of, is_json_array, why_not_binary, why_not_text
from finetune_trainer.data.files import FILE_ROWS, Files, format_by_name
from finetune_trainer.data.json_array import read_json_array
from finetune_trainer.data.records import Record, RowError, csv_header, read_csv, read_jsonl, read_text
from finetune_trainer.data.rows import ReadOptions
from finetune_trainer.errors import ConfigurationError, DataError, input_errors

Reader = Callable[[Path, Collection[str]], Iterator[Record | RowError]]
"""Takes the file and the wanted columns; may omit other columns."""

READERS: dict[DataFormat, Reader] = {
    DataFormat.JSONL: read_jsonl,
    DataFormat.JSON: read_json_array,
    DataFormat.CSV: read_csv,
    DataFormat.PARQUET: read_parquet,
    DataFormat.ARROW: read_arrow,
    DataFormat.TEXT: read_text,
}
_SCHEMAS: dict[DataFormat, Callable[[Path], Any]] = {
    DataFormat.PARQUET: parquet_schema,
    DataFormat.ARROW: arrow_schema,
}
_JSON = (DataFormat.JSONL, DataFormat.JSON)


@dataclass(frozen=True)
class Layout:
    """How the rows of a file are laid out, as far as it says so before the first one."""

    format: DataFormat
    columns: frozenset[str] | None = None
    """None where every row names its own."""
    class_names: tuple[str, ...] = ()
    """Names of the label column's integers, by id."""
    separator: str = ","


def read_records(files: Files, kind: DataFormat, wanted: Collection[str]) -> Iterator[Record | RowError]:
    """The rows of all files, numbered as `place_of` reads it."""
    for place, path in enumerate(files.paths):
        with input_errors(files.names[place], files.field):
            for record in READERS[kind](path, wanted):
                yield replace(record, line=record.line + place * FILE_ROWS) if place else record


def layout_of(files: Files, given: DataFormat | None, options: ReadOptions) -> Layout:
    """That of the first file.

    Raises ConfigurationError for a format, DataError for a file that differs and for two classes of one name.
    """
    layouts = [
        _layout(files, path, name, given, options)
        for name, path in zip(files.names, files.paths, strict=True)
    ]
    first = layouts[0]
    for name, layout in zip(files.names, layouts, strict=True):
        if why := _difference(layout, first, files.names[0]):
            raise DataError(
                f"{files.field}: {name} {why}; all files must have the same format and columns",
                FaultPlace(field=files.field, file=name),
            )
    names = first.class_names
    if not options.label_numbers and (repeated := [each for each in names if names.count(each) > 1]):
        raise DataError(
            f"{files.field}: {files.names[0]} names several classes {repeated[0]!r} in its schema, so that they would"
            " be one label; give each its own name, or write the labels as texts",
            FaultPlace(field=files.field, file=files.names[0]),
        )
    return first


def _layout(files: Files, path: Path, name: str, given: DataFormat | None, options: ReadOptions) -> Layout:
    with input_errors(name, files.field):
        kind = format_of(files.field, name, path, given, options)
        if kind is DataFormat.CSV:
            columns, separator = csv_header(path, options.wanted.values())
            return Layout(kind, frozenset(columns), separator=separator)
        schema = _SCHEMAS[kind](path) if kind in _SCHEMAS else None
    if schema is None:
        return Layout(kind)
    label = options.wanted.get("label")
    return Layout(kind, frozenset(schema.names), class_names(schema, label) if label else ())


def _difference(layout: Layout, first: Layout, name: str) -> str | None:
    """What another layout has that the first, that of the file `name`, has not."""
    if layout.format is not first.format:
        return f"is {layout.format} and {name} is {first.format}"
    if layout.columns is None or first.columns is None:
        return None
    if missing := sorted(first.columns - layout.columns):
        return f"has no column {missing[0]!r}, which {name} has"
    if more := sorted(layout.columns - first.columns):
        return f"has the column {more[0]!r}, which {name} does not have"
    if layout.class_names != first.class_names:
        here, there = (", ".join(each.class_names) or "none" for each in (layout, first))
        return f"has other class names in its schema ({here}) than {name} ({there})"
    return None


def format_of(
    field: str, name: str, path: Path, given: DataFormat | None, options: ReadOptions
) -> DataFormat:
    """From the spec, else from the file extension. Raises ConfigurationError if unknown or unsuitable."""
    found = given or format_by_name(name) or format_by_name(path.name)
    place = FaultPlace(field=f"{field}.format", file=name)
    head = head_of(path)
    if what := why_not_binary(head) if found in _SCHEMAS else why_not_text(path, head):
        raise DataError(f"{field}: {name} is {what}", FaultPlace(field=field, file=name))
    if found is None:
        choices = ", ".join(DataFormat)
        raise ConfigurationError(
            f"{field}: cannot infer the format of {name} from its extension; set {field}.format to one of {choices}",
            place,
        )
    if found is DataFormat.TEXT and (options.labelled or options.preference):
        raise ConfigurationError(
            f"{field}: {name} has one text per line and no other columns, which only objective.causalLM can use; for"
            " other objectives use jsonl, json, csv, parquet or arrow",
            place,
        )
    if found in _JSON:
        return DataFormat.JSON if is_json_array(head) else DataFormat.JSONL
    return found
