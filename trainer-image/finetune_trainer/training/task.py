"""A model and what it learns: how its outputs and its loss are computed."""

from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.data.batching import Indices
from finetune_trainer.data.collation import collate
from finetune_trainer.data.tokens import Examples
from finetune_trainer.objectives import Objective
from finetune_trainer.objectives.base import Inputs, Loss
from finetune_trainer.process.devices import Compute
from finetune_trainer.training.teaching import Teaching


@dataclass(frozen=True)
class Task:
    """Training, evaluation and the search for NaN compute the model in this one way."""

    model: Any
    objective: Objective[Any]
    compute: Compute
    pad_id: int
    teaching: Teaching | None = None
    """What it learns beside the labels of the training rows."""

    def on_host(self, examples: Examples, batch: Indices) -> tuple[Inputs, torch.Tensor]:
        """Inputs and targets of some examples, in memory that a GPU copies from while it computes; in any thread."""
        inputs, targets = collate(examples, batch, self.pad_id)
        if self.compute.device.type != "cuda":
            return inputs, targets
        torch.cuda.set_device(self.compute.device)  # a new thread's own is the first one
        return {name: tensor.pin_memory() for name, tensor in inputs.items()}, targets.pin_memory()

    def on_device(self, inputs: Inputs, targets: torch.Tensor) -> tuple[Inputs, torch.Tensor]:
        """What `on_host` gave, on the device."""
        device = self.compute.device
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
        return moved, targets.to(device, non_blocking=True)

    def collate(self, examples: Examples, batch: Indices) -> tuple[Inputs, torch.Tensor]:
        """Inputs and targets of some examples, on the device."""
        return self.on_device(*self.on_host(examples, batch))

    def forward(self, **inputs: Any) -> Any:
        """Call the model in the number format of the run."""
        with self.compute.autocast():
            return self.model(**inputs)

    def loss(self, inputs: Inputs, targets: torch.Tensor, batch: Indices) -> Loss:
        """The training loss of a batch of the training rows, as a sum and its weight."""
        if self.teaching is None:
            return self.objective.training_loss(self.forward, inputs, targets)
        outputs = self.objective.compute(self.forward, inputs, targets)
        return self.teaching.loss(self.objective, outputs, targets, batch)

    def predict(self, examples: Examples, batch: Indices) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and targets of some examples."""
        return self.outputs(*self.on_host(examples, batch))

    def outputs(self, inputs: Inputs, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of what `on_host` gave, with its targets."""
        inputs, targets = self.on_device(inputs, targets)
        return self.objective.compute(self.forward, inputs, targets), targets
