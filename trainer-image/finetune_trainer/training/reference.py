"""Log-probabilities of all answers by the model that training starts from, which losses compare with.

They are computed once, before the first step and before a checkpoint is restored: the model is then the one of
model.uri, and a new adapter changes nothing yet. So every epoch, attempt and trial of a search reads the same numbers,
and no second model takes up memory.

    reference/<digest>.npy  <digest>.json
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finetune_api.model import Initialize
from finetune_trainer.data.batching import Indices, evaluation_batches
from finetune_trainer.data.tokens import Examples
from finetune_trainer.distributed import Ranks
from finetune_trainer.errors import storage_errors
from finetune_trainer.files import replace_json, sha256, sync
from finetune_trainer.training.inputs import REFERENCE, Inputs, stop_if_asked
from finetune_trainer.training.task import Task
from finetune_trainer.versions import versions

logger = logging.getLogger(__name__)

FORMAT = 1
SAID_EVERY = 1000
"""Batches between two lines in the log."""
UNTRAINED = {"adapter", "freeze", "dropout", "layer_learning_rate_decay", "path", "tokenizer_path"}
"""Of the model's settings, those that do not change what it predicts before training, in evaluation."""


@dataclass(frozen=True)
class Reference:
    """The numbers of one run, in a folder that other runs of the same model and rows may share."""

    folder: Path
    model: str
    """Digest of all that decides the predictions of the model before training."""
    task: Task
    ranks: Ranks
    check: Callable[[], None]
    """Raises where the run is to stop."""

    def added_to(self, examples: Examples, size: int) -> Examples:
        """The rows with their numbers, read where an earlier run made them, else computed in batches of `size`."""
        counted = hashlib.sha256(np.ascontiguousarray(examples.targets).data).hexdigest()
        decisive = f"{FORMAT} {self.model} {examples.digest} {counted}"
        path = self.folder / f"{hashlib.sha256(decisive.encode()).hexdigest()}.npy"
        known = self.ranks.broadcast(self.ranks.is_main and _valid(path, len(examples)))
        if known:
            logger.info(f"the reference's log-probabilities of {examples.name} are there from an earlier run")
        else:
            self._write(path, examples, size)
        return replace(examples, reference=np.load(path, mmap_mode="r").view(np.ndarray))

    def _write(self, path: Path, examples: Examples, size: int) -> None:
        """Rank 0 writes what all compute; the digest comes last, and without it a file counts as nothing."""
        logger.info(
            f"computing the reference's log-probabilities of {len(examples)} rows of {examples.name}, once"
        )
        temporary = path.with_name(f".{path.name}.tmp")
        with storage_errors("the reference's log-probabilities", self.folder):
            if self.ranks.is_main:
                self.folder.mkdir(parents=True, exist_ok=True)
                kept = np.lib.format.open_memmap(temporary, "w+", np.float32, (len(examples), 2))
            for rows, values in self._computed(examples, size):
                if self.ranks.is_main:
                    kept[rows] = values
            if self.ranks.is_main:
                kept.flush()
                del kept
                sync(temporary)
                temporary.replace(path)
                replace_json(path.with_suffix(".json"), {"sha256": sha256(path), "rows": len(examples)})
            self.ranks.broadcast(None)

    def _computed(self, examples: Examples, size: int) -> Iterator[tuple[Indices, npt.NDArray[Any]]]:
        """Rows of all ranks with their values, batch by batch."""
        model = self.task.model
        model.eval()
        try:
            batches = evaluation_batches(examples.lengths, size * self.ranks.data_size)
            for number, everyones in enumerate(batches, start=1):
                self.check()
                ((batch, counts),) = self.ranks.shard_batch(everyones, size)
                mine = (batch, self._values(examples, batch)) if counts else (batch[:0], np.zeros((0, 2)))
                if not counts and self.ranks.divided:
                    self._values(examples, batch)
                yield from self.ranks.all_gather(mine)
                if number % SAID_EVERY == 0:
                    logger.info(f"reference: {number} of {len(batches)} batches")
        finally:
            model.train()

    def _values(self, examples: Examples, batch: Indices) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            outputs, _ = self.task.predict(examples, batch)
        return outputs[:, :2].float().cpu().numpy()


def reference_of(inputs: Inputs, task: Task, ranks: Ranks) -> Reference:
    """For this run: beside its checkpoints, or beside the tokens that the trials of a search share."""
    shared = inputs.config.output.token_dir
    folder = (Path(shared) if shared else inputs.fence.folder) / REFERENCE
    return Reference(folder, _model_digest(inputs, task), task, ranks, lambda: stop_if_asked(inputs.stop))


def _model_digest(inputs: Inputs, task: Task) -> str:
    spec = inputs.config.model
    drawn = spec.initialize is Initialize.RANDOM or spec.add_tokens
    decisive = {
        "model": inputs.folder.resolved.digest,
        "tokenizer": inputs.folder.tokenizer_digest,
        "settings": spec.model_dump(mode="json", exclude=UNTRAINED),
        "seed": inputs.config.training.seed if drawn else None,
        "compute": [task.compute.device.type, task.compute.precision.value],
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _valid(path: Path, rows: int) -> bool:
    """Whether a file is there as it was written; one that is not is made again."""
    try:
        known = json.loads(path.with_suffix(".json").read_text())
        return bool(known == {"sha256": sha256(path), "rows": rows})
    except (OSError, ValueError):
        return False
