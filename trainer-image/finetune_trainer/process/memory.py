"""Memory of a run: its minimum, its peak, and what to do when it runs out."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from finetune_trainer.errors import DeviceMemoryError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

GIBIBYTE = 2**30
NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch's allocator on the CPU, the driver of a GPU and cuBLAS say, which raise plain RuntimeErrors."""


def memory_estimate(model: "nn.Module", optimizer: "Optimizer | None" = None) -> str:
    """A sentence with the memory that the run needs without activations; evaluation needs the parameters only.

    On a GPU also the peak that was allocated.
    """
    parts = {"parameters": sum(_bytes(parameter) for parameter in model.parameters())}
    if optimizer is not None:
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        parts["gradients"] = sum(map(_bytes, trained))
        parts["optimizer state"] = _states(optimizer) * parts["gradients"]
    summands = " + ".join(f"{_readable(size)} {name}" for name, size in parts.items())
    peak = cuda_peak()
    most = "" if peak is None else f"; the peak was {_readable(peak)}"
    return f"{_readable(sum(parts.values()))} needed without activations ({summands}){most}"


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get memory, on a GPU or on the CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_MEMORY)


def next_micro_batch_size(size: int, longest: int, estimate: str) -> int:
    """The next smaller micro-batch; raises DeviceMemoryError, with the `estimate`, when one example does not fit."""
    if size <= 1:
        raise DeviceMemoryError(
            f"out of device memory with one example of {longest} tokens: {estimate}; lower"
            " dataset.preprocessing.maxLength, freeze more of the model, or use a larger device"
        )
    return size // 2


@contextmanager
def memory_errors(model: "nn.Module", optimizer: "Optimizer | None" = None) -> Iterator[None]:
    """Turn out-of-memory errors outside of passes, which no smaller micro-batch avoids, into DeviceMemoryError."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        less = (
            "freeze more of the model, train an adapter (model.adapter)"
            if optimizer
            else "use a smaller model"
        )
        raise DeviceMemoryError(
            "out of device memory outside of forward and backward passes:"
            f" {memory_estimate(model, optimizer)}; {less}, or use a larger device"
        ) from error


def peak() -> int:
    """Peak memory in bytes: allocated on the GPU if there is one, else resident in the process."""
    on_gpu = cuda_peak()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if on_gpu is None else on_gpu


def cuda_peak() -> int | None:
    """Peak memory in bytes that torch allocated on the GPU; None on the CPU or before torch is imported."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated())


def _bytes(parameter: "nn.Parameter") -> int:
    """Of this process's part, where it is divided."""
    own = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return int(own.numel() * own.element_size())


def _states(optimizer: "Optimizer") -> int:
    """Tensors of a parameter's shape that the optimizer keeps: two moments of AdamW, momentum of SGD."""
    if "betas" in optimizer.defaults:
        return 2
    return int(optimizer.defaults["momentum"] != 0)


def _readable(size: int) -> str:
    return f"{size / GIBIBYTE:.2f} GiB" if size >= GIBIBYTE else f"{size / 2**20:.2f} MiB"
