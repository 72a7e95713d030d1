"""The ranks of a run: each one's part of a batch, the collectives between them, the sharded model.

Gradients are summed by one explicit all-reduce at the end of a step, not by DistributedDataParallel's hooks within the
backward pass. So a rank that runs out of memory half-way still takes part in every later collective, and all ranks
repeat the step instead of hanging; the set of trained parameters may change between steps; and nothing has to be
scaled back. The price: the all-reduce does not overlap with the last backward pass.

accelerate's PartialState joins and leaves the process group and places the device; its object collectives carry what
is not a tensor. Sharding is torch's fully_shard.

With tensor parallelism the ranks are a grid: each row of `tensor` neighbours computes the same examples together, with
parts of the same layers. What is counted over all ranks, one of each row counts."""

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
from torch.distributed.tensor import DTensor, Shard

from finetune_api.training import Sharding
from finetune_trainer.data.batching import Indices, micro_batches
from finetune_trainer.errors import ConfigurationError, DeviceMemoryError, PeerLostError
from finetune_trainer.layers.float32 import Float32Linear
from finetune_trainer.layers.tensor_parallel import divide_columns, divide_heads, divide_rows
from finetune_trainer.models.slices import joined, joined_part
from finetune_trainer.models.tensor_plan import COLUMN_STYLES, Plan, Style, check_tensor_groups
from finetune_trainer.process.devices import Compute
from finetune_trainer.process.launch import Process
from finetune_trainer.process.memory import error_line, is_out_of_memory

DATA, TENSOR = "data", "tensor"
"""Names of a grid's dimensions."""
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
    grid: DeviceMesh | None = None
    """The ranks by DATA and TENSOR, with tensor parallelism."""

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that logs and writes."""
        return self.rank == 0

    @property
    def tensor(self) -> int:
        """Ranks that compute the same examples together: neighbours."""
        return 1 if self.grid is None else self.grid[TENSOR].size()

    @property
    def data_rank(self) -> int:
        """Which part of the examples this rank computes."""
        return self.rank // self.tensor

    @property
    def data_size(self) -> int:
        """Parts that the examples are divided into."""
        return self.world_size // self.tensor

    @property
    def counts(self) -> bool:
        """Whether what this rank finds for its examples counts; the others of its tensor group find the same."""
        return self.rank % self.tensor == 0

    def writes(self, shard: DTensor) -> bool:
        """Whether this is the first rank that has this part of a tensor."""
        if self.grid is None:
            return True
        names = shard.device_mesh.mesh_dim_names or ()
        whole = [name for name, placed in zip(names, shard.placements, strict=True) if placed.is_replicate()]
        alike = {DATA, TENSOR} - set(names) | set(whole)
        return (DATA not in alike or self.data_rank == 0) and (TENSOR not in alike or self.counts)

    @property
    def divided(self) -> bool:
        """Ranks have different parts of the model: its forward and backward passes communicate."""
        return self.sharded or self.grid is not None

    def shard_batch(self, batch: Indices, size: int) -> list[tuple[Indices, bool]]:
        """This rank's micro-batches, as many on every rank, and whether each counts.

        Every data_size-th example: of a batch sorted by length all ranks get the same lengths. A rank that has fewer
        examples computes one of the batch once more, which does not count: passes that communicate need all ranks.
        """
        mine = [(part, True) for part in micro_batches(batch[self.data_rank :: self.data_size], size)]
        needed = -(-len(batch[:: self.data_size]) // size)
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
        if self.divided or (self.sync_batch_norm and self.world_size > 1):
            field = "training.tensorParallel" if self.divided else "model.head.batchNorm"
            field = "training.sharding: Full" if self.sharded else field
            raise DeviceMemoryError(
                f"out of device memory on rank {self.rank} of {self.world_size} ({error_line(error)}); lower"
                f" training.microBatchSize; with {field} it cannot be reduced automatically during training"
            ) from error
        return error_line(error)

    def all_reduce_gradients(self, parameters: list[nn.Parameter], weight: float) -> float:
        """Sum the gradients over the ranks; returns the factor that makes them those of the mean over `weight`.

        The caller multiplies, so that scaling and clipping share one pass over the gradients.
        """
        if self.sharded:  # fully_shard has averaged them over the ranks
            return self.data_size / weight
        for parameter in parameters:
            if isinstance(parameter.grad, DTensor):  # ranks may have found terms of it for heads of their own
                parameter.grad = parameter.grad.redistribute(placements=parameter.placements)  # type: ignore[attr-defined]
        gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        if self.data_size > 1:
            group = None if self.grid is None else self.grid[DATA].get_group()
            for bucket in _buckets(gradients):
                flat = torch.cat([gradient.flatten() for gradient in bucket])
                dist.all_reduce(flat, group=group)
                parts = torch.split(flat, [gradient.numel() for gradient in bucket])
                for gradient, part in zip(bucket, parts, strict=True):
                    gradient.copy_(part.view_as(gradient))
        return 1.0 / weight

    @property
    def reading_mesh(self) -> DeviceMesh | None:
        """The ranks that each read a part of a divided model into the memory of the CPU."""
        return init_device_mesh("cpu", (self.world_size,)) if self.divided and self.world_size > 1 else None

    def place_model(
        self, model: nn.Module, layers: list[nn.Module], compute: Compute, plan: Plan | None = None
    ) -> None:
        """Move the model to the device with the weights of rank 0; divide it by a plan; shard it layer by layer.

        Sharded weights are kept, and their gradients reduced, in float32, whatever they are computed in.
        """
        if not self.divided:
            model.to(compute.device)
        if self.world_size == 1:
            return
        for tensor in [*model.parameters(), *model.buffers()]:
            if not isinstance(tensor, DTensor):
                dist.broadcast(tensor.detach(), src=0)
        exact = [module for module in model.modules() if isinstance(module, Float32Linear)]
        formats = dict.fromkeys(exact, torch.float32) | dict.fromkeys([*layers, model], compute.dtype)
        slices, left = _take_slices(model), dict(plan or {})
        shards = self._sharding_mesh(compute.device) if self.sharded else None
        for module, dtype in formats.items():
            if self.grid is not None:
                _divide(module, left, self.grid[TENSOR], compute.device)
            if shards is not None:
                _shard(module, shards, dtype)
        _give_slices(slices, compute.device)
        assert not self.sharded or all(isinstance(parameter, DTensor) for parameter in model.parameters())

    def _sharding_mesh(self, device: torch.device) -> DeviceMesh:
        return init_device_mesh(device.type, (self.world_size,)) if self.grid is None else self.grid[DATA]


def init_process_group(
    process: Process, compute: Compute, sharding: Sharding, tensor: int = 1, *, sync_batch_norm: bool = False
) -> Ranks:
    """Join the other processes; a no-op for a single one. Numbers go by gloo, a GPU's tensors by NCCL.

    `tensor` of them compute the same examples together. Raises ConfigurationError rather than train alone, by another
    backend or on another device, and where `tensor` does not divide them, PeerLostError where not all come in time.
    """
    check_tensor_groups(process.world_size, tensor)
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
    if tensor == 1:
        return Ranks(process.rank, process.world_size, sharding is Sharding.FULL, sync_batch_norm)
    shape = process.world_size // tensor, tensor
    grid = init_device_mesh(compute.device.type, shape, mesh_dim_names=(DATA, TENSOR))
    sharded = sharding is Sharding.FULL and shape[0] > 1
    return Ranks(process.rank, process.world_size, sharded, sync_batch_norm, grid)


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
    if not isinstance(tensor, DTensor):
        return tensor
    if tensor.device.type == "cpu" and tensor.placements == (Shard(0),):
        return joined(tensor)
    return tensor.full_tensor().cpu()


def local(tensor: Tensor) -> Tensor:
    """The memory of a tensor on this rank."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's shard of a full tensor where `like` is sharded, on its device; a shard stays what it is."""
    tensor = tensor.to(like.device)
    if isinstance(tensor, DTensor) or not isinstance(like, DTensor) or tensor.ndim == 0:
        return tensor
    own = tensor[tuple(slice(begin, begin + size) for begin, size in zip(*place_of(like), strict=True))]
    mesh, placements = like.device_mesh, like.placements
    return DTensor.from_local(
        own.contiguous(), mesh, placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def place_of(shard: DTensor) -> tuple[list[int], list[int]]:
    """Where this rank's part of a tensor begins, and its sizes."""
    chunks = shard.__create_chunk_list__()  # type: ignore[no-untyped-call]
    if not chunks:
        return [0] * shard.ndim, list(shard.to_local().shape)
    (chunk,) = chunks
    return list(chunk.offsets), list(chunk.sizes)


def _divide(unit: nn.Module, plan: Plan, mesh: DeviceMesh, device: torch.device) -> None:
    """Give this rank its parts of the layers of a unit that are in the plan, and the rest of it whole, on the device.

    They leave the plan.
    """
    for module in [part for part in unit.modules() if part in plan]:
        _move(module, device)
        style = plan.pop(module)
        if style in COLUMN_STYLES:
            divide_columns(module, mesh, gathered=style is Style.COLUMNS_GATHERED)
        elif style is Style.BY_HEADS:
            divide_heads(module, mesh)
        else:
            divide_rows(module, mesh, whole=style is Style.ROWS_OF_WHOLE)
    _move(unit, device)


def _move(module: nn.Module, device: torch.device) -> None:
    """To the device; `Module.to` refuses parameters that are divided, and those without memory."""
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if not isinstance(parameter, DTensor) and not parameter.is_meta:
                parameter.data = parameter.data.to(device)
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = buffer.to(device)


def _shard(module: nn.Module, mesh: DeviceMesh, dtype: torch.dtype) -> None:
    """Have ranks gather a module's weights for each pass. They are computed in `dtype`, and kept in float32."""
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    # for the root too: after an evaluation its parameters would stay unsharded, unknown to the optimizer
    fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


Slices = dict[DTensor, list[tuple[nn.Module, str]]]
"""Parameters that each rank read some rows of, with the modules that have them and their names there."""


def _take_slices(model: nn.Module) -> Slices:
    """Leave parameters without memory in the place of those that each rank read a part of."""
    taken: Slices = {}
    empty: dict[DTensor, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, DTensor):
                taken.setdefault(parameter, []).append((module, name))
                shapes = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
                empty.setdefault(parameter, nn.Parameter(shapes, parameter.requires_grad))
                module._parameters[name] = empty[parameter]
    return taken


def _give_slices(taken: Slices, device: torch.device) -> None:
    """Give this rank what it keeps of each parameter, now that the model is divided and sharded.

    One after the other, and of none more than that: no rank ever holds a tensor that it does not keep.
    """
    while taken:
        rows, places = taken.popitem()
        module, name = places[0]
        part = nn.Parameter(_kept(rows, module._parameters[name], device), rows.requires_grad)
        for module, name in places:
            module.register_parameter(name, part)


def _kept(rows: DTensor, like: Tensor | None, device: torch.device) -> Tensor:
    """The part of a tensor that this rank keeps, as it is divided in `like`. All ranks take part."""
    if not isinstance(like, DTensor):
        return full_tensor(rows).to(device)
    as_read = like.placements == rows.placements and like.device_mesh.size() == rows.device_mesh.size()
    part = rows.to_local().detach() if as_read else joined_part(rows, *place_of(like))
    mesh, placements = like.device_mesh, like.placements
    return DTensor.from_local(
        part.to(device), mesh, placements, run_check=False, shape=like.shape, stride=like.stride()
    )


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
