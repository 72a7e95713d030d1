"""Linear layers that the ranks of a tensor group divide, with LoRA matrices where they have them.

LoRA adds B(A(x)) to a layer's output. Of a layer divided by columns, B is divided in the same way, as what A gives is
whole on every rank; of one divided by rows, A is. So each of the two ends in what the layer itself ends in, and torch's
styles see to the gradients."""

from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from finetune_trainer.layers.dropout import PartialDropout

HEADS = 2
"""The dimension of the heads in (rows, tokens, heads, size)."""


def divide_columns(layer: Any, mesh: DeviceMesh, *, gathered: bool) -> None:
    """Leave each rank some of the outputs of a linear layer; with `gathered` it gets all of them after each pass."""
    for part in (_base(layer), *_adapters(layer, "lora_B")):
        _apply(part, mesh, ColwiseParallel(output_layouts=Replicate()) if gathered else ColwiseParallel())


def divide_rows(layer: Any, mesh: DeviceMesh, *, whole: bool) -> None:
    """Leave each rank the part of a linear layer for some of its inputs; with `whole` it is given all of them."""
    for part in (_base(layer), *_adapters(layer, "lora_A")):
        _apply(part, mesh, RowwiseParallel(input_layouts=Replicate()) if whole else RowwiseParallel())
    if not whole:
        for name, dropout in getattr(layer, "lora_dropout", {}).items():
            if isinstance(dropout, nn.Dropout):
                layer.lora_dropout[name] = PartialDropout(dropout.p, mesh.get_local_rank(), mesh.size())


def divide_heads(norm: nn.Module, mesh: DeviceMesh) -> None:
    """Have a norm of single heads, which is whole on every rank, sum its gradient over the heads of all."""
    trained = {name: parameter.requires_grad for name, parameter in norm.named_parameters()}
    _apply(norm, mesh, SequenceParallel(sequence_dim=HEADS, use_local_output=True))
    for name, parameter in norm.named_parameters():
        parameter.requires_grad_(trained[name])


def _base(layer: Any) -> nn.Module:
    found: nn.Module = getattr(layer, "base_layer", layer)
    return found


def _adapters(layer: Any, matrix: str) -> list[nn.Module]:
    return list(getattr(layer, matrix, {}).values())


def _apply(module: nn.Module, mesh: DeviceMesh, style: ParallelStyle) -> None:
    """All ranks have the same weights: none sends them."""
    parallelize_module(module, mesh, style, src_data_rank=None)
