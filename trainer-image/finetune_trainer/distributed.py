"""The ranks of a run: each one's part of a batch, the collectives between them, the sharded model.

Gradients are summed by one explicit all-reduce at the end of a step, not by DistributedDataParallel's hooks within the
backward pass. So a rank that runs out of memory half-way still takes part in every later collective, and all ranks
repeat the step instead of hanging; the set of trained parameters may change between steps; and nothing has to be
scaled back. The price: the all-reduce does not overlap with the last backward pass.

accelerate's PartialState joins and leaves the process group and places the device; its object collectives carry what
is not a tensor. Sharding is torch's fully_shard."""

import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, check_cuda_p2p_ib_support, gather_object
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from finetune_api.training import Sharding
from finetune_trainer.data.batching import Indices, micro_batches
from finetune_trainer.errors import ConfigurationError, DeviceMemoryError, PeerLostError
from finetune_trainer.layers.float32 import Float32Linear
from finetune_trainer.process.devices import Compute
from finetune_trainer.process.launch import Process
from finetune_trainer.process.memory import error_line, is_out_of_memory

BUCKET_ELEMENTS = 2**24
"""Gradients are all-reduced in copies of at most this number of elements (64 MiB)."""
T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    world_size: int = 1
    sharded: bool = False
    """The model is sharded over the ranks: its forward and backward passes communicate."""
    sync_batch_norm: bool = False
    """Batch normalisation uses the rows of all ranks: forward and backward passes communicate too."""

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that logs and writes."""
        return self.rank == 0

    def shard_batch(self, batch: Indices, size: int) -> list[tuple[Indices, bool]]:
        """This rank's micro-batches, as many on every rank, and whether each counts.

        Every world_size-th example: of a batch sorted by length all ranks get the same lengths. A rank that has fewer
        examples computes one of the batch once more, which does not count: passes that communicate need all ranks.
        """
        mine = [(part, True) for part in micro_batches(batch[self.rank :: self.world_size], size)]
        needed = -(-len(batch[:: self.world_size]) // size)
        return mine + [(batch[-1:], False)] * (needed - len(mine))

    def all_reduce_sum(self, *numbers: float) -> list[float]:
        """Each number summed over the ranks, the same to the last bit on all."""
        if self.world_size == 1:
            return list(numbers)
        totals = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(totals)
        return totals.tolist()

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank."""
        return [value] if self.world_size == 1 else gather_object([value])

    def first(self, values: list[T]) -> T:
        """The first value of the lowest rank that has one."""
        return next(value for each in self.all_gather(values) for value in each)

    def broadcast(self, value: T) -> T:
        """Rank 0's value."""
        return value if self.world_size == 1 else broadcast_object_list([value])[0]

    def check_memory(self, error: RuntimeError) -> str:
        """The error's line if a pass only ran out of memory and the ranks can repeat it together; else raise."""
        if not is_out_of_memory(error):
            raise error
        if self.sharded or (self.sync_batch_norm and self.world_size > 1):
            field = "training.sharding: Full" if self.sharded else "model.head.batchNorm"
            raise DeviceMemoryError(
                f"out of device memory on rank {self.rank} of {self.world_size} ({error_line(error)}); lower"
                f" training.microBatchSize; with {field} it cannot be reduced automatically during training"
            ) from error
        return error_line(error)

    def all_reduce_gradients(self, parameters: list[nn.Parameter], weight: float) -> float:
        """Sum the gradients over the ranks; returns the factor that makes them those of the mean over `weight`.

        The caller multiplies, so that scaling and clipping share one pass over the gradients.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.sharded:  # fully_shard has averaged them over the ranks
            return self.world_size / weight
        if self.world_size > 1:
            for bucket in _buckets(gradients):
                flat = torch.cat([gradient.flatten() for gradient in bucket])
                dist.all_reduce(flat)
                parts = torch.split(flat, [gradient.numel() for gradient in bucket])
                for gradient, part in zip(bucket, parts, strict=True):
                    gradient.copy_(part.view_as(gradient))
        return 1.0 / weight

    @property
    def reading_mesh(self) -> DeviceMesh | None:
        """The ranks that each read a part of a sharded model into the memory of the CPU."""
        return init_device_mesh("cpu", (self.world_size,)) if self.sharded and self.world_size > 1 else None

    def place_model(self, model: nn.Module, layers: list[nn.Module], compute: Compute) -> None:
        """Move the model to the device with the weights of rank 0; with sharding, shard it layer by layer.

        Sharded weights are kept, and their gradients reduced, in float32, whatever they are computed in.
        """
        if not self.sharded:
            model.to(compute.device)
        if self.world_size == 1:
            return
        for tensor in [*model.parameters(), *model.buffers()]:
            if not isinstance(tensor, DTensor):
                dist.broadcast(tensor.detach(), src=0)
        if not self.sharded:
            return
        mesh = init_device_mesh(compute.device.type, (self.world_size,))
        shards = _take_shards(model)
        exact = [module for module in model.modules() if isinstance(module, Float32Linear)]
        for module in [*exact, *layers, model]:
            dtype = torch.float32 if module in exact else compute.dtype
            policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
            # for the root too: after an evaluation its parameters would stay unsharded, unknown to the optimizer
            fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        _give_shards(shards, mesh)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())


def init_process_group(
    process: Process, compute: Compute, sharding: Sharding, *, sync_batch_norm: bool = False
) -> Ranks:
    """Join the other processes; a no-op for a single one. Numbers go by gloo, a GPU's tensors by NCCL.

    Raises ConfigurationError rather than train alone, by another backend or on another device, PeerLostError where
    not all come in time.
    """
    if process.world_size == 1:
        return Ranks()
    on_cpu = compute.device.type == "cpu"
    backend = "gloo" if on_cpu else "cpu:gloo,cuda:nccl"
    place = {"RANK": process.rank, "LOCAL_RANK": process.local_rank, "WORLD_SIZE": process.world_size}
    place |= {"LOCAL_WORLD_SIZE": process.local_world_size}
    os.environ.update({name: str(value) for name, value in place.items()})
    if not on_cpu and not check_cuda_p2p_ib_support():
        logger.warning(
            "this GPU's driver has no peer-to-peer transfers: NCCL_P2P_DISABLE=1, NCCL_IB_DISABLE=1"
        )
        os.environ.update(NCCL_P2P_DISABLE="1", NCCL_IB_DISABLE="1")
    try:
        state = PartialState(cpu=on_cpu, backend=backend, timeout=process.collective_timeout)
    except RuntimeError as error:
        raise PeerLostError(_not_met(process, error)) from error
    _check_joined(state, process, compute, backend)
    return Ranks(process.rank, process.world_size, sharding is Sharding.FULL, sync_batch_norm)


def _not_met(process: Process, error: RuntimeError) -> str:
    """Why the processes of a run do not train together."""
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    hint = (
        f"; do all {process.nodes} nodes run this job, and does a network policy let them connect on every port?"
        if process.nodes > 1
        else ""
    )
    return (
        f"rank {process.rank} of {process.world_size} met not all others at {where} within"
        f" {process.collective_timeout}: {error_line(error)[:200]}{hint}"
    )


def destroy_process_group() -> None:
    """Leave the process group; without this NCCL warns."""
    if dist.is_initialized():
        PartialState().destroy_process_group()


def _check_joined(state: PartialState, process: Process, compute: Compute, backend: str) -> None:
    """PartialState follows the first of its kind in this process and ACCELERATE_* variables: it may not have joined."""
    found = state.process_index, state.num_processes, state.backend, _place_of(state.device)
    wanted = process.rank, process.world_size, backend, _place_of(compute.device)
    if found != wanted or not dist.is_initialized():
        names = "rank {} of {} by {} on {}"
        raise ConfigurationError(
            f"this process should be {names.format(*wanted)}, but joined as {names.format(*found)}; unset the"
            " ACCELERATE_* variables of its environment"
        )


def _place_of(device: torch.device) -> str:
    return str(device) if device.type == "cuda" else device.type


@contextmanager
def lost_peers() -> Iterator[None]:
    """Turn the error of a collective whose peer is gone or silent into a PeerLostError."""
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        raise PeerLostError(f"another process of this run was lost: {str(error)[:300]}") from error


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered in CPU memory, in which all ranks take part; any other tensor as it is."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's shard of a full tensor where `like` is sharded, on its device; a shard stays what it is."""
    tensor = tensor.to(like.device)
    if isinstance(tensor, DTensor) or not isinstance(like, DTensor) or tensor.ndim == 0:
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


Shards = dict[tuple[nn.Module, str], DTensor]
"""Parameters by their module and name there; one that several modules share is there for each."""


def _take_shards(model: nn.Module) -> Shards:
    """Leave parameters without memory in the place of those that each rank read a part of."""
    taken: Shards = {}
    empty: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, DTensor):
                taken[module, name] = parameter
                shapes = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
                empty.setdefault(parameter, nn.Parameter(shapes, parameter.requires_grad))
                module._parameters[name] = empty[parameter]
    return taken


def _give_shards(taken: Shards, mesh: DeviceMesh) -> None:
    """Put the parts into the model that fully_shard has divided in the same way."""
    placed: dict[DTensor, nn.Parameter] = {}
    for (module, name), shard in taken.items():
        if shard not in placed:
            local = shard.to_local().detach().to(mesh.device_type)
            part = DTensor.from_local(
                local, mesh, [Shard(0)], run_check=False, shape=shard.shape, stride=shard.stride()
            )
            placed[shard] = nn.Parameter(part, shard.requires_grad)
        module.register_parameter(name, placed[shard])


def unshard(model: nn.Module, kept: Collection[nn.Parameter] = ()) -> None:
    """Replace sharded parameters, but not the `kept`, by full ones, on every rank: to save it, not to compute."""
    known: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not isinstance(parameter, DTensor) or parameter in kept:
                continue
            if parameter not in known:
                known[parameter] = nn.Parameter(full_tensor(parameter.detach()), parameter.requires_grad)
            module.register_parameter(name, known[parameter])


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """In order, each of one dtype and of at most BUCKET_ELEMENTS unless a single gradient has more."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(part.numel() for part in bucket) + gradient.numel() > BUCKET_ELEMENTS
        if bucket and (full or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
