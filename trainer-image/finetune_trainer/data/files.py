"""Which files an input has: one, those that a pattern matches, or those of a folder; and whose row a number means."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune_api.dataset import DataFormat
from finetune_api.run import DataInput, FaultPlace
from finetune_trainer.errors import NotFoundError, input_errors
from finetune_trainer.files import is_pattern, matches, sha256

FILE_ROWS = 1 << 40
"""Row r of the file at place n in the order has the number n * FILE_ROWS + r."""
MOST_NAMED = 10
ENDINGS = {
    ".jsonl": DataFormat.JSONL,
    ".ndjson": DataFormat.JSONL,
    ".json": DataFormat.JSON,
    ".csv": DataFormat.CSV,
    ".tsv": DataFormat.CSV,
    ".parquet": DataFormat.PARQUET,
    ".arrow": DataFormat.ARROW,
    ".feather": DataFormat.ARROW,
    ".txt": DataFormat.TEXT,
}
_SPLIT = re.compile(r"(?<![a-z])(train|test|validation|valid|val|dev|eval)(?![a-z])", re.IGNORECASE)


Versions = tuple[tuple[int, int, int], ...]
"""Of several files."""


@dataclass(frozen=True)
class Files:
    """The files of one input, in the order in which they are read."""

    field: str
    name: str
    """As the user wrote it."""
    paths: tuple[Path, ...]
    names: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 of the file's content; of several, of their digests."""
        digests = []
        for name, path in zip(self.names, self.paths, strict=True):
            with input_errors(name, self.field):
                digests.append(sha256(path))
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()

    @property
    def versions(self) -> Versions:
        """Inode, size and time of the last change of every file. Raises OSError."""
        return tuple((found.st_ino, found.st_size, found.st_mtime_ns) for found in map(Path.stat, self.paths))


def place_of(number: int, name: str, files: Sequence[str]) -> tuple[str, int]:
    """The file of a row, which has the name of the input where that is one file, and its row there."""
    return files[number // FILE_ROWS] if files else name, number % FILE_ROWS


def format_by_name(name: str) -> DataFormat | None:
    """The format that a file's extension shows."""
    return ENDINGS.get(PurePosixPath(name.lower().removesuffix(".gz")).suffix)


def find_files(field: str, data: DataInput) -> Files:
    """The files that a path, a pattern or a folder means. Raises NotFoundError."""
    name, path = data.uri or data.path, Path(data.path)
    if path.is_dir():
        paths = _saved(field, name, path) if (path / "state.json").exists() else _folder(field, name, data)
        folder = name.rstrip("/")
    elif is_pattern(path.name) and not path.exists():
        paths = _matching(field, name, path)
        folder = name.rpartition("/")[0]
    else:
        return Files(field, name, (path,), (name,))
    names = (f"{folder}/{each.name}" if folder else each.name for each in paths)
    return Files(field, name, tuple(paths), tuple(names))


def splits_of(names: tuple[str, ...]) -> set[str]:
    """Which of train, test and so on the names of several files name."""
    found = (_SPLIT.findall(PurePosixPath(name).name) for name in names)
    return {split.lower() for each in found for split in each}


def _matching(field: str, name: str, path: Path) -> list[Path]:
    """In the order of their names; as in a shell, hidden files do not match."""
    with input_errors(name.rpartition("/")[0] or ".", field):
        there = _visible(path.parent)
    found = [each for each in there if matches(each.name, path.name)]
    if not found:
        raise _refused(field, name, f"matches no file; the folder has {_listed(there)}")
    if folders := [each for each in found if each.is_dir()]:
        raise _refused(
            field,
            name,
            f"matches the folder {folders[0].name}; write a pattern that matches files only, for example *.parquet",
        )
    return found


def _folder(field: str, name: str, data: DataInput) -> list[Path]:
    """All files of a folder, if they have one format and are not of several splits."""
    path = Path(data.path)
    there = _visible(path)
    if (path / "dataset_dict.json").exists():
        splits = [each.name for each in there if each.is_dir()]
        raise _refused(
            field,
            name,
            f"is a DatasetDict; name the split: {' or '.join(f'{name}/{split}' for split in splits)}",
        )
    if not there:
        raise _refused(field, name, "is an empty folder")
    pattern = f"; name a file in it, or several with a pattern such as {name.rstrip('/')}/*{there[0].suffix}"
    formats = {None if each.is_dir() else data.format or format_by_name(each.name) for each in there}
    if None in formats or len(formats) > 1:
        what = "does not hold data files of one format only"
        raise _refused(field, name, f"is a folder that {what}: {_listed(there)}{pattern}")
    splits_there = splits_of(tuple(each.name for each in there))
    if len(splits_there) > 1:
        split = f"{name.rstrip('/')}/*{min(splits_there, key=lambda each: each != 'train')}*"
        raise _refused(
            field,
            name,
            f"is a folder with files of several splits: {_listed(there)}; name one, such as {split}",
        )
    return there


def _saved(field: str, name: str, path: Path) -> list[Path]:
    """The files of a folder that datasets.save_to_disk wrote, in their order."""
    try:
        state = json.loads((path / "state.json").read_bytes())
        found = [path / Path(each["filename"]).name for each in state["_data_files"]]
        chosen = state.get("_indices_data_files")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _refused(
            field, name, "has a state.json that datasets.save_to_disk did not write; name the files"
        ) from None
    if chosen:
        raise _refused(
            field,
            name,
            "was saved by an old version of datasets with a selection of rows; load and save it again, with"
            " datasets.load_from_disk and save_to_disk",
        )
    if not found:
        raise _refused(field, name, "is a dataset without rows")
    if missing := [each.name for each in found if not each.exists()]:
        raise _refused(
            field, name, f"lacks {missing[0]}, which its state.json names; copy the whole folder again"
        )
    return found


def _visible(folder: Path) -> list[Path]:
    """Sorted by name, without hidden files and markers such as _SUCCESS."""
    return sorted(each for each in folder.iterdir() if not each.name.startswith((".", "_")))


def _listed(paths: list[Path]) -> str:
    shown = [f"{each.name}/" if each.is_dir() else each.name for each in paths[:MOST_NAMED]]
    more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
    return ", ".join(shown) + more if shown else "no files"


def _refused(field: str, name: str, why: str) -> NotFoundError:
    return NotFoundError(f"{field}: {name} {why}", FaultPlace(field=field, file=name))
