"""The weights of the checkpoint again, in place of frozen ones that were kept in fewer bits: what is published has all
its digits, and an adapter is merged into those."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune_api.run import ModelInput
from finetune_trainer.layers.frozen import Frozen, freeze_in, with_weights
from finetune_trainer.models.adapters import merged, merges
from finetune_trainer.models.folder import ModelFolder
from finetune_trainer.models.frozen_weights import (
    HALVES,
    Reading,
    Storage,
    checkpoint_dtype,
    is_kept,
    storage_of,
)
from finetune_trainer.models.load import auto_class, known_config
from finetune_trainer.models.merge import merged_weights
from finetune_trainer.models.pretrained import read_pretrained
from finetune_trainer.objectives import Objective

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def loses_digits(folder: ModelFolder, spec: ModelInput) -> bool:
    """Whether the frozen weights of a run are others than those of its checkpoint."""
    storage = storage_of(folder, spec)
    return storage is not None and not storage.exact


def publishable(
    model: Any, folder: ModelFolder, spec: ModelInput, objective: Objective[Any], dtype: "torch.dtype"
) -> Any:
    """The model with its adapter merged, where that is asked for, into the weights of the checkpoint. In place.

    Layer by layer: what is published in 16 bits is never there in 32. An adapter that is published alone stays on the
    weights that it was trained with.
    """
    alone = spec.adapter is not None and not merges(spec)
    if alone or not is_kept(model):
        return merged(model, spec) if merges(spec) else model
    found = _from_checkpoint(folder, spec, objective) if loses_digits(folder, spec) else {}
    adapted = {
        module.base_layer: module
        for module in model.modules()
        if isinstance(getattr(module, "base_layer", None), Frozen)
    }
    tables: dict[int, Frozen] = {}
    """By the weights that several layers share, the first of them: config.json may say otherwise."""
    layers = [(module, id(module.weight)) for module in model.modules() if isinstance(module, Frozen)]
    for layer, weight in layers:
        origin, device = layer.origin, layer.weight.device
        first = tables.setdefault(weight, layer)
        with_weights(layer, (found[f"{origin}.weight"] if found else layer.weight).to(device))
        if layer in adapted:
            adapted[layer].merge(safe_merge=False)
        if dtype in HALVES:
            freeze_in(layer, dtype, origin)
        layer.weight = first.weight
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "All adapters are already merged|Already following adapters", UserWarning
        )
        return merged(model, spec) if merges(spec) else model


def _from_checkpoint(
    folder: ModelFolder, spec: ModelInput, objective: Objective[Any]
) -> "Mapping[str, Tensor]":
    """The tensors of the model that training started from, by their names, with all their digits."""
    config = known_config(folder)
    if folder.adapter is not None:
        return merged_weights(folder, config)
    own = checkpoint_dtype(folder.path)
    reading = Reading(spec, Storage(own, exact=True), extended=False) if own in HALVES else None
    model, _ = read_pretrained(folder.path, folder.name, config, auto_class(spec, objective), reading=reading)
    return {name: tensor.detach() for name, tensor in model.named_parameters(remove_duplicate=False)}
