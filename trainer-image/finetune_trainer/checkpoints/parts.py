"""Tensors of a sharded run as files: each rank writes its own part, and reads what it needs of all of them.

    model/00001-of-00002.safetensors  model/00002-of-00002.safetensors

The format is that of torch's HuggingFaceStorageWriter, whose reader finds the rows of a tensor at any number of ranks.
The writer itself holds a part in memory twice, and exchanges a plan between the ranks before it writes."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint._hf_utils import CUSTOM_METADATA_KEY, SAVED_OFFSETS_KEY
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.tensor import DTensor

from finetune_trainer.distributed import Ranks, place_of
from finetune_trainer.files import sha256, sync

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """What a rank writes of some tensors: its rows, in the memory of the CPU, and where they begin."""

    tensors: Tensors
    places: dict[str, dict[str, list[int]]]


def part_of(tensors: Tensors, ranks: Ranks, *, copied: bool) -> Part:
    """This rank's part; what several have alike is in that of the first of them. A copied one stays what it is."""
    own: Tensors = {}
    places: dict[str, dict[str, list[int]]] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            if not ranks.writes(tensor):
                continue
            local, (offsets, _sizes) = tensor.to_local(), place_of(tensor)
        elif ranks.is_main:
            local, offsets = tensor, [0] * tensor.ndim
        else:
            continue
        if local.numel() or not isinstance(tensor, DTensor):
            own[name] = on_cpu(local, copied=copied)
            places[name] = {SAVED_OFFSETS_KEY: offsets}
    return Part(own, places)


def on_cpu(tensor: Tensor, *, copied: bool) -> Tensor:
    """A tensor in the memory of the CPU, as a file wants it."""
    return tensor.detach().to("cpu", copy=copied).contiguous()


def write_part(folder: Path, part: Part, ranks: Ranks) -> tuple[str, str]:
    """Write and flush a part; its path inside the folder above, and its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{ranks.rank + 1:05}-of-{ranks.world_size:05}.safetensors"
    save_file(part.tensors, path, {CUSTOM_METADATA_KEY: json.dumps(part.places)})
    sync(path)
    sync(folder)
    return f"{folder.name}/{path.name}", sha256(path)


def shapes_of(folder: Path) -> dict[str, TensorStorageMetadata]:
    """The tensors that all parts together have."""
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: each for name, each in found.items() if isinstance(each, TensorStorageMetadata)}


def read_parts(folder: Path, into: Tensors) -> None:
    """Read these very tensors, in place: of a sharded one this rank's rows, whoever wrote them."""
    found = shapes_of(folder).keys()
    assert into.keys() == found, f"other tensors: {sorted(into.keys() ^ found)[:5]}"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(dict(into), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
