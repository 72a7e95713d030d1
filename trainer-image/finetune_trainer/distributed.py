"""The ranks of a run: what each one does of a batch, what they tell each other, how they share the model.

Gradients are summed by one explicit all-reduce at the end of a step, not by DistributedDataParallel's hooks within the
backward pass. So a rank that fails half-way, for want of memory, still takes part in everything that follows, and all
go back together instead of hanging; any choice of trained parameters may change between steps; and nothing has to be
scaled back. The price: the all-reduce does not overlap with the last backward pass."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from finetune_api.training import Sharding
from finetune_trainer.data.batching import Indices, micro_batches
from finetune_trainer.errors import DeviceMemoryError, PeerLostError
from finetune_trainer.layers.float32 import Float32Linear
from finetune_trainer.process.devices import Compute
from finetune_trainer.process.launch import EXCHANGE_SECONDS, Process
from finetune_trainer.process.memory import is_out_of_memory

TIMEOUT = timedelta(seconds=float(os.environ.get(EXCHANGE_SECONDS, "1800")))
"""For one exchange: as long as rank 0 may take to write a checkpoint or the model."""
BUCKET_ELEMENTS = 2**24
"""Gradients are joined in copies of at most so many numbers (64 MiB)."""
T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    world: int = 1
    sharded: bool = False
    """The model is divided among the ranks: its forward and backward pass communicate."""
    normalised: bool = False
    """A batch normalisation takes the rows of all ranks: forward and backward pass communicate too."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that talks and writes."""
        return self.rank == 0

    def deal(self, batch: Indices, size: int) -> list[tuple[Indices, bool]]:
        """This rank's micro-batches, as many on every rank, and whether each counts.

        Every world-th example: of a batch sorted by length all ranks get the same lengths. A rank that has fewer
        examples computes one of the batch once more, which does not count: passes that communicate need all ranks.
        """
        mine = [(part, True) for part in micro_batches(batch[self.rank :: self.world], size)]
        needed = -(-len(batch[:: self.world]) // size)
        return mine + [(batch[-1:], False)] * (needed - len(mine))

    def total(self, *numbers: float) -> list[float]:
        """Each number summed over the ranks, the same to the last bit on all."""
        if self.world == 1:
            return list(numbers)
        totals = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(totals)
        return totals.tolist()

    def gather(self, value: T) -> list[T]:
        """What every rank has, in their order."""
        found: list[Any] = [value]
        if self.world > 1:
            found *= self.world
            dist.all_gather_object(found, value)
        return found

    def decided(self, value: T) -> T:
        """What rank 0 has."""
        told: list[Any] = [value]
        if self.world > 1:
            dist.broadcast_object_list(told, src=0)
        return told[0]  # type: ignore[no-any-return]

    def check_memory(self, error: RuntimeError) -> None:
        """Return if a pass failed for want of memory alone, and the ranks can take it back together."""
        if not is_out_of_memory(error):
            raise error
        if self.sharded or (self.normalised and self.world > 1):
            field = "training.sharding: Full" if self.sharded else "model.head.batchNorm"
            raise DeviceMemoryError(
                f"out of device memory on rank {self.rank} of {self.world}; lower training.microBatchSize, which"
                f" cannot change on the way with {field}"
            ) from error

    def join_gradients(self, parameters: list[nn.Parameter], weight: float) -> float:
        """Join the ranks' gradients; returns by what they have to be multiplied to be that of the mean over `weight`.

        Not done here, so that one pass over the gradients does for this and for clipping.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.sharded:  # reduced already, to their mean over the ranks
            return self.world / weight
        if self.world > 1:
            for bucket in _buckets(gradients):
                flat = torch.cat([gradient.flatten() for gradient in bucket])
                dist.all_reduce(flat)
                parts = torch.split(flat, [gradient.numel() for gradient in bucket])
                for gradient, part in zip(bucket, parts, strict=True):
                    gradient.copy_(part.view_as(gradient))
        return 1.0 / weight

    def share(self, model: nn.Module, layers: list[nn.Module], compute: Compute) -> None:
        """Bring the model to the device with the weights of rank 0; with sharding divide it, layer by layer.

        Divided weights are kept, and their gradients joined, in float32, whatever they are computed in.
        """
        if not self.sharded:
            model.to(compute.device)
        if self.world == 1:
            return
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.detach(), src=0)
        if not self.sharded:
            return
        mesh = init_device_mesh(compute.device.type, (self.world,))
        exact = [module for module in model.modules() if isinstance(module, Float32Linear)]
        for module in [*exact, *layers, model]:
            dtype = torch.float32 if module in exact else compute.dtype
            policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
            # said for the root too: after an evaluation its parameters would stay whole, unknown to the optimizer
            fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())


def join(process: Process, compute: Compute, sharding: Sharding, *, normalised: bool = False) -> Ranks:
    """Meet the other processes; nothing to do for the only one. Numbers go by gloo, a GPU's tensors by NCCL."""
    if process.world == 1:
        return Ranks()
    backend = "gloo" if compute.device.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, rank=process.rank, world_size=process.world, timeout=TIMEOUT)
    assert dist.get_world_size() == process.world
    return Ranks(process.rank, process.world, sharding is Sharding.FULL, normalised)


def leave() -> None:
    """Take leave of the others; without it NCCL complains."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def lost_peers() -> Iterator[None]:
    """Turn what an exchange says when another rank is gone or silent into a PeerLostError."""
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        raise PeerLostError(f"another process of this run was lost: {str(error)[:300]}") from error


def whole(tensor: Tensor) -> Tensor:
    """A divided tensor put together in the memory of the CPU, for which all ranks are needed; others as they are."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def divided_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, where `like` is divided, on its device."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor) or tensor.ndim == 0:
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def put_together(model: nn.Module) -> None:
    """Replace divided parameters by whole ones, on every rank; the model is to be saved then, not to compute."""
    known: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor) and parameter not in known:
                known[parameter] = nn.Parameter(whole(parameter.detach()), parameter.requires_grad)
            module.register_parameter(name, known.get(parameter, parameter))


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """In their order, of like type, of at most BUCKET_ELEMENTS unless one alone has more."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(part.numel() for part in bucket) + gradient.numel() > BUCKET_ELEMENTS
        if bucket and (full or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
