"""Tokenized rows in memory-mapped files, so that they cost no memory and are made once a job, or once a search.

    tokens/<digest>/  ids.npy  offsets.npy  targets.npy  lines.npy  [types.npy]

The digest is that of everything the tokens depend on. A folder is written under another name and renamed once it is
whole and flushed; what an attempt that was cancelled left is removed. Runs that share a folder never wait for each
other: two that need the same tokens at the same time both make them, and the first one's are kept.

Not Arrow's IPC format: its record batches are separate buffers, so a batch of random rows needs a lookup of each row's
record batch before numpy can index it (with `Table.take` it costs 17 to 27 times as much, with views of every record
batch as much as here), and writing costs 1.8 times as much. Measured on 5 million tokens; docs/architecture.md."""

import hashlib
import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.encoding import Encoding
from finetune_trainer.data.sources import Source
from finetune_trainer.data.tokens import Examples, arrays_of, examples_of
from finetune_trainer.errors import storage_errors
from finetune_trainer.files import fresh_folder, rename_folder, sync_tree
from finetune_trainer.objectives import Objective
from finetune_trainer.versions import versions

logger = logging.getLogger(__name__)

TEMPORARY = ".writing-"
AWAITED_EVERY = 0.1
"""Seconds."""
ABANDONED = 24 * 3600.0
"""Seconds after which what a run was writing into a shared folder is removed."""
FORMAT = 6
"""Of the files and of what is written into them; another number makes all caches anew."""


class TokenCache:
    """The tokens of one job; as a context it forgets, at the end, what was not asked for meanwhile.

    In a folder that is `shared` with other runs it forgets only what a run abandoned while it was writing. Of several
    processes one writes. `check` is called now and then, and may raise.
    """

    def __init__(
        self, folder: Path, check: Callable[[], None], *, writes: bool = True, shared: bool = False
    ) -> None:
        self._folder, self._check, self._writes, self._shared = folder, check, writes, shared
        self._used: set[str] = set()

    def __enter__(self) -> "TokenCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove leftovers, unless something went wrong: then the next attempt does."""
        if kind is None and self._writes and self._folder.is_dir():
            for path in self._folder.iterdir():
                if _abandoned(path) if self._shared else path.name not in self._used:
                    shutil.rmtree(path, ignore_errors=True)

    def examples(self, source: Source, objective: Objective[Any], how: Encoding) -> Examples:
        """Tokenized rows of a source, made now or by an earlier attempt. Raises StorageError."""
        digest = token_digest(source, objective, how)
        self._used.add(digest)
        target = self._folder / digest
        arrays = _mapped(target) if self._writes else self._awaited(target)
        if arrays is None:
            if target.exists():
                logger.warning(f"the tokens of {source.name} from an earlier attempt are damaged: made again")
            with storage_errors("the token cache", self._folder):
                self._write(target, source, objective, how)
                arrays = _mapped(target)
            assert arrays is not None
        else:
            logger.info(
                f"the tokens of {len(source.rows)} rows of {source.name} are there from an earlier"
                f" {'run' if self._shared else 'attempt'}"
            )
        return examples_of(source, objective, arrays)

    def _awaited(self, target: Path) -> dict[str, npt.NDArray[Any]]:
        """What the writing process of this run will have made; its end is the end of this one too."""
        while (arrays := _mapped(target)) is None:
            self._check()
            time.sleep(AWAITED_EVERY)
        return arrays

    def _write(self, target: Path, source: Source, objective: Objective[Any], how: Encoding) -> None:
        temporary = fresh_folder(self._folder / f"{TEMPORARY}{uuid.uuid4().hex[:8]}")
        files: dict[str, _Growing] = {}
        try:
            try:
                for part in arrays_of(source, objective, how):
                    self._check()
                    for name, array in part.items():
                        if name not in files:
                            files[name] = _Growing(temporary / f"{name}.npy", array)
                        files[name].append(array)
            finally:
                for file in files.values():
                    file.close()
            sync_tree(temporary)
            if self._shared and _mapped(target) is not None:
                return  # another run was first
            shutil.rmtree(target, ignore_errors=True)
            try:
                rename_folder(temporary, target)
            except OSError:
                if _mapped(target) is None:
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _abandoned(path: Path) -> bool:
    """Whether nobody has written to a temporary folder for a day."""
    try:
        return path.name.startswith(TEMPORARY) and time.time() - path.stat().st_mtime > ABANDONED
    except OSError:
        return False  # another run removed it


def token_digest(source: Source, objective: Objective[Any], how: Encoding) -> str:
    """sha256 of all that decides the tokens: the rows as they are cleaned, the tokenizer, and the labels' ids."""
    decisive = {
        "format": FORMAT,
        "rows": source.digest,
        "objective": repr(objective),
        "encoding": how.digest,
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _mapped(folder: Path) -> dict[str, npt.NDArray[Any]] | None:
    """The arrays of a folder as memory-mapped files; None where they are not there or not whole."""
    try:
        arrays = {
            path.stem: np.lib.format.open_memmap(path, mode="r").view(np.ndarray)
            for path in folder.glob("*.npy")
        }
    except (OSError, ValueError):
        return None
    return arrays if _whole(arrays) else None


def _whole(arrays: dict[str, npt.NDArray[Any]]) -> bool:
    """Whether the files are all there and fit together, which a disk that lost power does not promise."""
    if not {"ids", "offsets", "targets", "lines"} <= arrays.keys():
        return False
    rows, tokens = arrays["lines"].size, arrays["ids"].size
    of_tokens = [arrays[name].shape == (tokens,) for name in ("ids", "types") if name in arrays]
    fits = arrays["offsets"].shape == (rows + 1,) and arrays["targets"].shape[:1] in ((rows,), (tokens,))
    return fits and all(of_tokens) and int(arrays["offsets"][-1]) == tokens


class _Growing:
    """A .npy file whose number of rows is known at its end only; numpy's header leaves room for it."""

    def __init__(self, path: Path, like: npt.NDArray[Any]) -> None:
        self._file, self._like, self._rows = path.open("wb"), like, 0
        self._header()

    def append(self, array: npt.NDArray[Any]) -> None:
        assert array.dtype == self._like.dtype and array.shape[1:] == self._like.shape[1:]
        self._file.write(np.ascontiguousarray(array).data)
        self._rows += len(array)

    def close(self) -> None:
        self._file.seek(0)
        self._header()
        self._file.close()

    def _header(self) -> None:
        described = {
            "descr": np.lib.format.dtype_to_descr(self._like.dtype),
            "fortran_order": False,
            "shape": (self._rows, *self._like.shape[1:]),
        }
        np.lib.format.write_array_header_1_0(self._file, described)
