"""Formats of data files, and how the format of a file is chosen."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from finetune_api.dataset import DataFormat
from finetune_api.run import DataInput, FaultPlace
from finetune_trainer.data.detect import head_of, why_not_text
from finetune_trainer.data.parquet import read_parquet
from finetune_trainer.data.records import Record, RowError, read_csv, read_jsonl, read_text
from finetune_trainer.data.rows import ReadOptions
from finetune_trainer.errors import ConfigurationError, DataError

Reader = Callable[[Path, Collection[str]], Iterator[Record | RowError]]
"""Takes the file and the wanted columns; may omit other columns."""

READERS: dict[DataFormat, Reader] = {
    DataFormat.JSONL: read_jsonl,
    DataFormat.CSV: read_csv,
    DataFormat.PARQUET: read_parquet,
    DataFormat.TEXT: read_text,
}
ENDINGS = {
    ".jsonl": DataFormat.JSONL,
    ".ndjson": DataFormat.JSONL,
    ".json": DataFormat.JSONL,
    ".csv": DataFormat.CSV,
    ".tsv": DataFormat.CSV,
    ".parquet": DataFormat.PARQUET,
    ".txt": DataFormat.TEXT,
}


def format_of(field: str, data: DataInput, options: ReadOptions) -> DataFormat:
    """From the spec, else from the file extension. Raises ConfigurationError if unknown or unsuitable."""
    name = data.uri or data.path
    endings = tuple(Path(each.lower().removesuffix(".gz")).suffix for each in (name, data.path))
    found = data.format or next((ENDINGS[ending] for ending in endings if ending in ENDINGS), None)
    place = FaultPlace(field=f"{field}.format", file=name)
    head = head_of(Path(data.path))
    if found is not DataFormat.PARQUET and (what := why_not_text(Path(data.path), head)):
        raise DataError(f"{field}: {name} is {what}", FaultPlace(field=field, file=name))
    if found is None:
        choices = ", ".join(DataFormat)
        raise ConfigurationError(
            f"{field}: cannot infer the format of {name} from its extension; set {field}.format to one of {choices}",
            place,
        )
    if found is DataFormat.TEXT and options.labelled:
        raise ConfigurationError(
            f"{field}: {name} has one text per line and no labels, which only objective.causalLM can use; for other"
            " objectives use jsonl, csv or parquet",
            place,
        )
    return found
