"""A model without weights: its modules and their shapes, on which a forward pass only computes shapes."""

from dataclasses import replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.initialization import no_init_weights

from finetune_api.model import Initialize
from finetune_api.run import ModelInput
from finetune_trainer.models.embeddings import ReplacedIds
from finetune_trainer.models.folder import ModelFolder
from finetune_trainer.models.frozen_weights import storage_of
from finetune_trainer.models.load import load_model
from finetune_trainer.objectives import Objective


def skeleton(
    folder: ModelFolder,
    spec: ModelInput,
    objective: Objective[Any],
    pad_id: int | None,
    added: ReplacedIds | None = None,
    *,
    divided: bool = False,
) -> Any:
    """`load_model` without reading or allocating weights: its parameters are on torch's meta device.

    It raises what `load_model` raises, but for what only the weights tell.
    """
    unread, storage = (
        spec.model_copy(update={"initialize": Initialize.RANDOM}),
        storage_of(folder, spec, divided=divided),
    )
    whole = replace(folder, adapter=None, base=None)
    with torch.device("meta"), no_init_weights():
        return load_model(whole, unread, objective, pad_id, added, storage=storage).model


def as_if_on_cpu(model: torch.nn.Module) -> FakeTensorMode:
    """Have a skeleton compute as on a CPU, shapes only, within the mode that is returned.

    On the meta device there is no autocast, and attention is not computed as elsewhere.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    known: dict[int, torch.Tensor] = {}
    with mode:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = _placed(parameter, known)  # type: ignore[assignment]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = _placed(buffer, known)
    return mode


def _placed(tensor: torch.Tensor, known: dict[int, torch.Tensor]) -> torch.Tensor:
    """The same on the CPU; one that several modules share is placed once."""
    if id(tensor) not in known:
        placed = torch.empty_like(tensor, device="cpu")
        if isinstance(tensor, torch.nn.Parameter):
            placed = torch.nn.Parameter(placed, tensor.requires_grad)
        known[id(tensor)] = placed
    return known[id(tensor)]
