"""Freed memory stays with the process: asked of the real allocator, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

import finetune_trainer

PROGRAM = """
import resource, sys
import torch
from contextlib import nullcontext
from finetune_trainer.process.allocator import keep_freed_memory, returning_freed_memory
if sys.argv[1] != "given back":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
with returning_freed_memory() if sys.argv[1] == "returned" else nullcontext():
    for _ in range(10):
        torch.ones(2**24)
    before = faults()
    for _ in range(10):
        torch.ones(2**24)
    print(faults() - before)
"""


def faults(how: str) -> int:
    """Page faults of making a tensor of 64 MiB ten more times."""
    folders = [str(Path(finetune_trainer.__file__).parents[1]), *sys.path]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {folders!r}\n{PROGRAM}", how]
    return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt belongs to glibc")
def test_a_tensor_made_again_takes_the_memory_of_the_last_one():
    kept = faults("kept")
    assert kept * 10 < faults("given back")
    assert kept * 10 < faults("returned")
