"""Copies a published model to this machine and checks it against its checksums."""

import hashlib
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from finetune_sdk.errors import ModelError

SUMS = "SHA256SUMS"
_CHUNK = 1 << 20

Fill = Callable[[Path], None]


def copied(target: Path, digest: str | None, fill: Fill) -> Path:
    """The folder `target` with what `fill` writes into a folder beside it: complete and verified, or not there at all.

    `digest` is that of the job's status; without one the files have no checksums and are not checked. Raises
    ModelError.
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} exists and is not empty; choose another folder")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise ModelError(f"{target} cannot be written: {error.strerror}; choose another folder") from error
    try:
        fill(partial)
        if digest:
            verify(partial, digest)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder of this machine. Raises ModelError."""
    if not source.is_dir():
        raise ModelError(f"{source} is not there; is the claim's folder the right one?")
    shutil.copytree(source, target, dirs_exist_ok=True)


def extract(archive: IO[bytes], target: Path) -> None:
    """Write the regular files of a tar stream below `target`. Raises ModelError for any other entry."""
    try:
        with tarfile.open(fileobj=archive, mode="r|") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if member.isdir():
                    continue
                if not member.isreg() or path.is_absolute() or ".." in path.parts:
                    raise ModelError(
                        f"the model's folder has {member.name}, which is not a regular file in it"
                    )
                source = tar.extractfile(member)
                assert source
                file = target / path
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("wb") as out:
                    shutil.copyfileobj(source, out, _CHUNK)
    except tarfile.TarError as error:
        raise ModelError(f"the copy broke off: {error}; try again") from error


def verify(folder: Path, digest: str) -> None:
    """Raise ModelError unless the folder has exactly the files of its checksums, and these the job's digest."""
    sums = folder / SUMS
    if not sums.is_file():
        raise ModelError(f"the model's folder has no {SUMS}; it is not the model that the job published")
    found = f"sha256:{_sha256(sums)}"
    if found != digest:
        raise ModelError(
            f"{SUMS} has the digest {found[:19]}…, and the job's status has {digest[:19]}…: the folder on the claim was"
            " changed since the job published it"
        )
    wanted = dict(_lines(sums.read_text(encoding="utf-8")))
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {SUMS}
    if there != wanted.keys():
        lost, more = sorted(wanted.keys() - there), sorted(there - wanted.keys())
        raise ModelError(
            f"files are missing ({', '.join(lost) or 'none'}) or unknown ({', '.join(more) or 'none'})"
        )
    for name, expected in wanted.items():
        if _sha256(folder / name) != expected:
            raise ModelError(f"{name} does not have its checksum: it was damaged or changed on the claim")


def _lines(text: str) -> list[tuple[str, str]]:
    """Name and sha256 of each line."""
    parted = (line.partition("  ") for line in text.splitlines())
    return [(name.removeprefix("./"), value) for value, _, name in parted]


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
