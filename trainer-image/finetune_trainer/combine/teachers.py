"""The mean of what the members answer for the training rows, on disk: what a student learns.

    <student folder>/teachers/<key>.<sha256>.npy    (rows or tokens, outputs) in float32

The key is that of rows, temperature and the members so far; the sha256 is that of the file. A file is written for one
member after the other, each from the one before it, and renamed once it is whole and flushed: an attempt that was
killed goes on with the next member, and every attempt of a student learns the same bytes.
"""

import hashlib
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from finetune_api.run import DistillationInput, FaultPlace
from finetune_trainer.combine.members import Member
from finetune_trainer.data.batching import Indices, evaluation_batches
from finetune_trainer.data.collation import places
from finetune_trainer.data.tokens import Examples
from finetune_trainer.errors import DivergedError, storage_errors
from finetune_trainer.files import sha256, sync
from finetune_trainer.objectives.distillation import taught
from finetune_trainer.process.memory import (
    error_line,
    is_out_of_memory,
    memory_estimate,
    next_micro_batch_size,
)
from finetune_trainer.training.evaluator import name_rows
from finetune_trainer.training.task import Task

logger = logging.getLogger(__name__)

TEACHERS, TEMPORARY = "teachers", ".writing-"
DEFAULT_TEMPERATURE = 2.0
Outputs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Teachers:
    """Members that answer for the training rows, one in memory at a time."""

    members: list[Member]
    load: Callable[[Member], Task]
    examples: Examples
    """The training rows."""
    temperature: float
    batch_size: int
    folder: Path
    check: Callable[[], None]
    """Called before every batch; may raise."""

    def teach(self, rows: str, alpha: float) -> DistillationInput:
        """The mean of all of them, computed now or by an earlier attempt; `rows` is the digest of rows and tokens.

        Raises DivergedError for a member whose outputs are not finite, StorageError, DeviceMemoryError.
        """
        keys = self._keys(rows)
        found = {number: path for number, key in enumerate(keys) if (path := self._whole(key))}
        last = max(found, default=-1)
        if last >= 0:
            logger.info(f"the outputs of {last + 1} of {len(keys)} members are there from an earlier attempt")
        path = found.get(last)
        with storage_errors("the members' outputs", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(f"{TEMPORARY}*"):
                leftover.unlink(missing_ok=True)
            for number in range(last + 1, len(keys)):
                path = self._next(number, keys[number], path)
        assert path is not None
        return DistillationInput(
            outputs=str(path),
            digest=f"sha256:{_sum_in(path)}",
            rows_digest=rows,
            temperature=self.temperature,
            alpha=alpha,
        )

    def _keys(self, rows: str) -> list[str]:
        """One for every member, of all before it too."""
        keys, before = list[str](), f"{rows} {self.temperature}"
        for member in self.members:
            before = hashlib.sha256(f"{before} {member.digest}".encode()).hexdigest()
            keys.append(before)
        return keys

    def _whole(self, key: str) -> Path | None:
        for path in self.folder.glob(f"{key}.*.npy"):
            if sha256(path) == _sum_in(path):
                return path
            logger.warning(f"{path} is damaged: the members' outputs are computed again")
            path.unlink()
        return None

    def _next(self, number: int, key: str, before: Path | None) -> Path:
        """The file that takes up one more member; that before it is removed."""
        task = self.load(self.members[number])
        temporary = self.folder / f"{TEMPORARY}{uuid.uuid4().hex}.npy"
        try:
            self._write(task, number, temporary, before)
            path = self.folder / f"{key}.{sha256(temporary)}.npy"
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(self.folder)
        if before is not None:
            before.unlink(missing_ok=True)
        logger.info(f"{self.members[number].name}: answered for {len(self.examples)} training rows")
        return path

    def _write(self, task: Task, number: int, path: Path, before: Path | None) -> None:
        mean = None if before is None else np.load(before, mmap_mode="r")
        entries = int(self.examples.offsets[-1]) if self.examples.per_token else len(self.examples)
        made = _made(path, (entries, task.objective.outputs or 0))
        size, broken = self.batch_size, None
        while broken is None:
            try:
                broken = self._answer(task, size, number, mean, made)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                longest, need = int(self.examples.lengths.max()), memory_estimate(task.model)
                size = next_micro_batch_size(size, longest, need, error_line(error))
        if broken:
            raise self._not_finite(number, broken)
        made.flush()
        sync(path)

    def _answer(self, task: Task, size: int, number: int, mean: Outputs | None, made: Outputs) -> list[int]:
        """Write the new mean; returns the rows whose outputs are not finite."""
        task.model.eval()
        broken = list[int]()
        with torch.inference_mode():
            for batch in evaluation_batches(self.examples.lengths, size):
                self.check()
                where, values, bad = self._batch(task, batch)
                broken.extend(bad.tolist())
                known = 0.0 if mean is None else mean[where].astype(np.float64)
                made[where] = known + (values - known) / (number + 1)
        return broken

    def _batch(self, task: Task, batch: Indices) -> tuple[Indices, npt.NDArray[np.float64], Indices]:
        """Where the answers for a batch belong, the answers, and the rows that have some that are not finite."""
        logits, _ = task.predict(self.examples, batch)
        where, mask = places(self.examples, batch)
        finite = logits.isfinite().all(-1).cpu()
        if mask is not None:
            finite = (finite | ~mask).all(-1)
            logits = logits[mask.to(logits.device)]
        values = taught(task.objective, logits, self.temperature)
        return where.numpy(), values.cpu().numpy(), batch[~finite.numpy()]

    def _not_finite(self, number: int, rows: list[int]) -> DivergedError:
        member = self.members[number]
        named = name_rows(self.examples, np.asarray(rows, dtype=np.int64))
        return DivergedError(
            f"{member.field}: {member.name}: its outputs for {len(rows)} of {len(self.examples)} training rows are NaN"
            f" or infinite, so no student can learn from it: {named}; train it again with precision: Float32 or a"
            " smaller learning rate, or leave it out",
            FaultPlace(field=member.field, file=member.name),
        )


def _made(path: Path, shape: tuple[int, int]) -> "np.memmap[tuple[int, int], np.dtype[np.float32]]":
    """A file of zeros with room on the disk: a mapped file that finds none later would end the process."""
    made = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return made


def _sum_in(path: Path) -> str:
    """The sha256 that is part of a file's name."""
    return path.name.split(".")[1]
