"""The outputs of other models for the training rows, from which a student learns."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finetune_api.run import DistillationInput, FaultPlace
from finetune_trainer.data.batching import Indices
from finetune_trainer.data.collation import places
from finetune_trainer.data.tokens import Examples
from finetune_trainer.errors import ConfigurationError, StorageError
from finetune_trainer.files import sha256
from finetune_trainer.objectives import Objective
from finetune_trainer.objectives.base import Loss
from finetune_trainer.objectives.distillation import distilled


@dataclass(frozen=True)
class Teaching:
    """What a student learns beside the labels of its training rows."""

    examples: Examples
    """The training rows."""
    outputs: npt.NDArray[np.float32]
    """(rows or tokens, outputs), a memory-mapped file."""
    temperature: float
    alpha: float

    def loss(
        self, objective: Objective[Any], logits: torch.Tensor, targets: torch.Tensor, batch: Indices
    ) -> Loss:
        """The loss of some of the rows, as a sum and its weight."""
        outputs = self._of(objective, batch).to(logits.device).reshape(logits.shape)
        return distilled(objective, logits, targets, outputs, self.temperature, self.alpha)

    def _of(self, objective: Objective[Any], batch: Indices) -> torch.Tensor:
        """As the logits are, (rows, outputs) or (rows, longest, outputs)."""
        where, mask = places(self.examples, batch)
        found = self.outputs[where.numpy()]
        if mask is None:
            numbers = objective.encode(found) if objective.problem_type == "regression" else found
            return torch.from_numpy(np.asarray(numbers))
        padded = torch.zeros(*mask.shape, found.shape[-1])
        padded[mask] = torch.from_numpy(found)
        return padded


def read_teaching(given: DistillationInput, examples: Examples, objective: Objective[Any]) -> Teaching:
    """The outputs for these training rows, verified.

    Raises StorageError for a file that is not as it was written, ConfigurationError for one of other rows, tokens or
    labels.
    """
    path = Path(given.outputs)
    place = FaultPlace(field="distillation.outputs", file=given.outputs)
    if not path.exists() or f"sha256:{sha256(path)}" != given.digest:
        raise StorageError(
            f"distillation.outputs: {path} is missing or damaged; the next attempt computes the members' outputs again",
            place,
        )
    if rows_digest(examples, objective) != given.rows_digest:
        raise ConfigurationError(
            f"distillation: the outputs in {path} are for other rows than the {len(examples)} training rows of"
            f" {examples.name}, or for other tokens or labels; give the student the members' dataset, tokenizer,"
            " labels and maxLength",
            place,
        )
    outputs = np.lib.format.open_memmap(path, mode="r").view(np.ndarray)
    return Teaching(examples, outputs, given.temperature, given.alpha)


def rows_digest(examples: Examples, objective: Objective[Any]) -> str:
    """sha256 of rows, tokens and the names of the outputs, as `DistillationInput.rows_digest` has it."""
    names = "\0".join(objective.output_names or [])
    return f"sha256:{hashlib.sha256(f'{examples.digest} {names}'.encode()).hexdigest()}"
