"""Writing files so that they survive a crash, and their digests."""

import fnmatch
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """Digest of a file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush every file below a folder, and the folders."""
    for path in files_of(folder):
        sync(path)
    for path in [*(p for p in folder.rglob("*") if p.is_dir()), folder]:
        sync(path)


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, sorted by their path inside it."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def write_json(path: Path, value: Any) -> None:
    """Write and flush JSON that a person can read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sync(path)


def replace_json(path: Path, value: Any) -> None:
    """Put JSON in a file's place at once: a reader sees the old or the new, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    write_json(temporary, value)
    temporary.replace(path)
    sync(path.parent)


def read_json(path: Path) -> Any:
    """JSON that `replace_json` wrote; None where nothing was written, or it is damaged."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def readable(folder: Path) -> None:
    """Give every file the usual rights: safetensors makes its own readable by nobody else."""
    mask = os.umask(0)
    os.umask(mask)
    for path in files_of(folder):
        path.chmod(0o666 & ~mask)


def is_pattern(name: str) -> bool:
    """Whether a file's name stands for several."""
    return not set(name).isdisjoint("*?")


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern with * and ? means a name; as in a shell, not that of a hidden file."""
    return not name.startswith(".") and fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def fresh_folder(path: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def rename_folder(source: Path, target: Path) -> None:
    """Publish a folder under its final name; both lie on one file system."""
    source.rename(target)
    sync(target.parent)
    sync(source.parent)
