"""Writes the folder of a sharded model that no rank ever holds whole: one tensor at a time is gathered and written."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers.core_model_loading import revert_weight_conversion

from finetune_api.run import ModelInput
from finetune_trainer.distributed import full_tensor, unshard
from finetune_trainer.files import write_json
from finetune_trainer.models.adapters import SHARD_SIZE, merges
from finetune_trainer.models.precision import dtype_name, published_part
from finetune_trainer.process.allocator import returning_freed_memory
from finetune_trainer.shipped.custom_head import HeadedModel

INDEX = "model.safetensors.index.json"
NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Of number formats, in safetensors."""


def gather_small(model: Any, spec: ModelInput) -> None:
    """Make whole on every rank what is small: the head, or an adapter. The rest stays sharded until it is written.

    A merged adapter, and a model whose file has other tensors than the model itself, are made whole altogether.
    """
    part = published_part(model)
    if spec.adapter is not None and not merges(spec):
        unshard(model, kept={parameter for parameter in model.parameters() if not parameter.requires_grad})
    elif merges(spec) or _file_differs(part):
        unshard(model)
    else:
        head = part.get_output_embeddings() if part is model else None
        kept = [*model.base_model.parameters(), *(() if head is None else head.parameters())]
        unshard(model, kept=set(kept))


def _file_differs(model: Any) -> bool:
    """Whether a file of this architecture has other tensors than the model in memory."""
    shapes = {name: torch.empty(each.shape, device="meta") for name, each in model.state_dict().items()}
    written = revert_weight_conversion(model, dict(shapes))
    return written.keys() != shapes.keys() or any(written[name] is not shapes[name] for name in shapes)


def is_sharded(model: Any, spec: ModelInput) -> bool:
    """Whether `write_sharded` writes this model, in which all ranks take part."""
    return spec.adapter is None and any(
        isinstance(each, DTensor) for each in published_part(model).parameters()
    )


@returning_freed_memory()
def take_part(model: Any, dtype: torch.dtype) -> None:
    """The part of a rank that does not write."""
    plan = _plan(published_part(model), dtype)
    for names in plan.files.values():
        for name in names:
            full_tensor(plan.tensors[name])


@returning_freed_memory()
def write_sharded(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """As `save_pretrained`, in the files that it would write; floating-point numbers are written in `dtype`."""
    part = published_part(model)
    part.config.architectures = [type(part).__name__.removeprefix("FSDP")]
    part.config.dtype = dtype_name(dtype)
    part.config.save_pretrained(str(folder))
    if part.can_generate():
        part.generation_config.save_pretrained(str(folder))
    plan = _plan(part, dtype)
    for file, names in plan.files.items():
        _write(folder / file, [(name, plan.tensors[name]) for name in names], dtype)
    if plan.index is not None:
        write_json(folder / INDEX, plan.index)
    if isinstance(model, HeadedModel):
        model.save_head(str(folder))


@dataclass(frozen=True)
class Plan:
    """What is written, the same on every rank."""

    tensors: dict[str, Tensor]
    files: dict[str, list[str]]
    """The names of its tensors, by file, as they lie in it."""
    index: dict[str, Any] | None
    """Where there are several files."""


def _plan(model: Any, dtype: torch.dtype) -> Plan:
    state, tied = model.state_dict(keep_vars=True), getattr(model, "all_tied_weights_keys", None) or {}
    ignored = set(model._keys_to_ignore_on_save or ())
    tensors = {
        name: tensor.detach()
        for name, tensor in state.items()
        if name not in ignored and not (name in tied and tensor is state.get(tied[name]))
    }
    shapes = {name: _shape(tensor, dtype) for name, tensor in tensors.items()}
    split = split_torch_state_dict_into_shards(
        shapes, filename_pattern="model{suffix}.safetensors", max_shard_size=SHARD_SIZE
    )
    files = {
        file: sorted(names, key=lambda name: -shapes[name].element_size())  # so that numbers are aligned
        for file, names in split.filename_to_tensors.items()
    }
    numbers = {"total_parameters": sum(shape.numel() for shape in shapes.values()), **split.metadata}
    index = {"metadata": numbers, "weight_map": split.tensor_to_filename}
    return Plan(tensors, files, index if split.is_sharded else None)


def _shape(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor without memory, as it is written."""
    return torch.empty(
        tensor.shape, dtype=dtype if tensor.is_floating_point() else tensor.dtype, device="meta"
    )


def _write(path: Path, tensors: list[tuple[str, Tensor]], dtype: torch.dtype) -> None:
    """A file of safetensors, whose own library wants all tensors of a file at once."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors:
        shape = _shape(tensor, dtype)
        start, end = end, end + shape.numel() * shape.element_size()
        header[name] = {"dtype": NAMES[shape.dtype], "shape": list(shape.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in tensors:
            file.write(_numbers(tensor, dtype))


def _numbers(tensor: Tensor, dtype: torch.dtype) -> memoryview:
    """The bytes of a tensor in a file; nothing else is left of it when the next one is gathered."""
    whole = full_tensor(tensor)
    numbers = whole.to("cpu", dtype if whole.is_floating_point() else whole.dtype)
    return numbers.contiguous().reshape(-1).view(torch.uint8).numpy().data
