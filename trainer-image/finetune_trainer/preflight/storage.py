"""Whether the output claim can be used: a probe writes, flushes, reads back, renames and removes."""

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from finetune_api.run import FaultPlace, RunConfig
from finetune_trainer.errors import NotFoundError, StorageError, storage_errors
from finetune_trainer.files import sync

_BYTES = 1 << 16
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def check_writable(config: RunConfig) -> None:
    """Raise NotFoundError where the folders of the output may not be written to, StorageError for other faults."""
    output = config.output
    for folder in (Path(output.model_dir).parent, Path(output.checkpoint_dir).parent):
        with storage_errors("the storage probe", folder):
            try:
                _probe(folder)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                name = output.uri or output.model_dir
                raise NotFoundError(
                    f"output.uri: {folder}, where {name} is written, cannot be written to: {error.strerror}; check the"
                    " claim's access mode, its owner and the rights of the folder",
                    FaultPlace(field="output.uri", file=name),
                ) from error


def _probe(folder: Path) -> None:
    made = _missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_and_read(folder)
    finally:
        for path in made:  # the innermost first
            with suppress(OSError):
                path.rmdir()


def _missing(folder: Path) -> list[Path]:
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _write_and_read(folder: Path) -> None:
    content, path = os.urandom(_BYTES), folder / f".probe-{secrets.token_hex(8)}"
    renamed = path.with_suffix(".renamed")
    try:
        path.write_bytes(content)
        sync(path)
        path.rename(renamed)
        sync(folder)
        found = renamed.read_bytes()
    finally:
        for one in (path, renamed):
            one.unlink(missing_ok=True)
    if found != content:
        raise StorageError(
            f"the storage probe in {folder} did not read back what it wrote; check the volume",
            FaultPlace(field="output.uri", file=str(folder)),
        )
