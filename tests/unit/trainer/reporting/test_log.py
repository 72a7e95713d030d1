"""Warnings of libraries that help nobody stay out of a run's log; all others are there."""

import os
import subprocess
import sys

LIBRARIES = """
import logging, sys
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.testing._internal.distributed.fake_pg import FakeStore
from finetune_trainer.reporting.log import UNHELPFUL, configure_logging

if "configured" in sys.argv:
    configure_logging()
dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
layer = parallelize_module(torch.nn.Linear(8, 8), mesh["tensor"], ColwiseParallel(), src_data_rank=None)
fully_shard(layer, mesh=mesh["data"])
layer.weight.full_tensor()
import bitsandbytes.backends.cpu.ops
for name in UNHELPFUL:
    logging.getLogger(name).warning("another warning of %s", name)
dist.destroy_process_group()
"""


def written(*arguments: str) -> str:
    """What the libraries write to stderr when a tensor is gathered over data and tensor groups."""
    found = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LIBRARIES, *arguments]
    return subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True, env=found).stderr


def test_warnings_without_a_remedy_are_dropped_and_others_are_not() -> None:
    unfiltered, found = written(), written("configured")
    assert "2 sequential all_gather operations" in unfiltered
    assert "sequential" not in found
    assert "gemm_4bit_forward" not in found
    for library in ("torch.distributed.tensor._redistribute", "bitsandbytes.backends.cpu.ops"):
        assert f"another warning of {library}" in found
