"""Reads a model that no rank holds whole: of each matrix a rank reads and keeps its own rows.

transformers reads a tensor that is sharded in the model by slices of its file. So the class that it builds shards its
matrices before anything is read. `place_model` puts these shards to work; until then `gathered` lets a few
tokens through the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor


def reading_slices(concrete: type[nn.Module], mesh: DeviceMesh, *, embeddings: bool) -> type[nn.Module]:
    """A class of transformers whose new models have their matrices sharded over the ranks of a mesh, by rows.

    Vectors, heads and poolers stay whole on every rank: they are small, and may be drawn anew. So do the `embeddings`
    where they are to be changed.
    """

    def build(model: Any, *args: Any, **settings: Any) -> None:
        concrete.__init__(model, *args, **settings)
        _shard(model, mesh, embeddings=embeddings)

    names = {"__init__": build, "__module__": concrete.__module__, "__qualname__": concrete.__qualname__}
    return type(concrete.__name__, (concrete,), names)


def _shard(model: Any, mesh: DeviceMesh, *, embeddings: bool) -> None:
    output = model.get_output_embeddings()
    kept = () if embeddings else (model.get_input_embeddings(), output)
    known: dict[nn.Parameter, nn.Parameter] = {}
    for part in (model.base_model, *([] if output is None else [output])):
        for path, module in part.named_modules():
            if "pooler" in path or any(module is each for each in kept):
                continue
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter.ndim > 1 and not isinstance(parameter, DTensor):
                    known.setdefault(parameter, _sharded(parameter, mesh))
                    module._parameters[name] = known[parameter]


def _sharded(parameter: nn.Parameter, mesh: DeviceMesh) -> nn.Parameter:
    shard = distribute_tensor(parameter, mesh, [Shard(0)], src_data_rank=None)
    return nn.Parameter(shard, parameter.requires_grad)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within it, a module of a model that was read in slices computes with whole weights, gathered for it alone.

    All ranks take part: they compute the same.
    """
    shards: dict[nn.Module, dict[str, Any]] = {}

    def gather(module: nn.Module, _inputs: Any) -> None:
        own: dict[str, Any] = {
            name: value for name, value in module._parameters.items() if isinstance(value, DTensor)
        }
        shards[module] = own
        for name, shard in own.items():
            module._parameters[name] = nn.Parameter(joined(shard), requires_grad=False)

    def drop(module: nn.Module, *_: Any) -> None:
        module._parameters.update(shards.pop(module, {}))

    handles = []
    for module in model.modules():
        if any(isinstance(value, DTensor) for value in module._parameters.values()):
            handles.append(module.register_forward_pre_hook(gather))
            handles.append(module.register_forward_hook(drop, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def joined(shard: DTensor) -> torch.Tensor:
    """The rows that all ranks have in the memory of a CPU: each is sent to its place, as gloo's gather has them twice.

    All ranks take part.
    """
    group, own = shard.device_mesh.get_group(), shard.device_mesh.get_local_rank()
    whole = torch.empty(shard.shape, dtype=shard.dtype)
    for rank, rows in enumerate(whole.chunk(shard.device_mesh.size())):
        if rank == own:
            rows.copy_(shard.to_local().detach())
        dist.broadcast(rows, group=group, group_src=rank)
    return whole


def joined_part(shard: DTensor, offsets: list[int], sizes: list[int]) -> torch.Tensor:
    """A rectangle of what `joined` returns, another one on each rank, with the rows of one rank at a time beside it."""
    group, own = shard.device_mesh.get_group(), shard.device_mesh.get_local_rank()
    part = torch.empty(sizes, dtype=shard.dtype)
    (top, *left), (height, *widths) = offsets, sizes
    columns = [slice(begin, begin + width) for begin, width in zip(left, widths, strict=True)]
    shapes = [
        chunk.shape for chunk in torch.empty(shard.shape, device="meta").chunk(shard.device_mesh.size())
    ]
    received, first = torch.empty(shapes[0], dtype=shard.dtype), 0
    for rank, (count, *_) in enumerate(shapes):
        rows = shard.to_local().detach() if rank == own else received[:count]
        dist.broadcast(rows, group=group, group_src=rank)
        begin, end = max(first, top), min(first + count, top + height)
        if begin < end:
            part[begin - top : end - top] = rows[(slice(begin - first, end - first), *columns)]
        first += count
    return part
