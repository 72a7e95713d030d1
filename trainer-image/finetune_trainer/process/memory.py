"""Memory of a run: its minimum, its peak, and what to do when it runs out."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer.errors import DeviceMemoryError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

GIBIBYTE = 2**30
NO_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Messages of a GPU's driver and of cuBLAS, which accelerate does not know."""


@dataclass(frozen=True)
class Need:
    """Bytes that a run needs at least on each device: activations come on top."""

    parameters: int
    gradients: int | None = None
    """None for an evaluation, which has none."""
    optimizer_state: int = 0
    average: int = 0
    """The moving average of training.ema."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.parameters + (self.gradients or 0) + self.optimizer_state + self.average

    def __str__(self) -> str:
        """With its parts, as part of a sentence."""
        parts = [(self.parameters, "parameters")]
        if self.gradients is not None:
            parts += [(self.gradients, "gradients"), (self.optimizer_state, "optimizer state")]
        if self.average:
            parts.append((self.average, "moving average"))
        summands = " + ".join(f"{readable(size)} {name}" for size, name in parts)
        return f"{readable(self.total)} needed without activations ({summands})"


def memory_estimate(model: "nn.Module", optimizer: "Optimizer | None" = None) -> str:
    """A sentence with the memory that the run needs without activations; evaluation needs the parameters only.

    On a GPU also the peak that was allocated.
    """
    need = Need(sum(_bytes(parameter) for parameter in model.parameters()))
    if optimizer is not None:
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        gradients = sum(map(_bytes, trained))
        need = replace(need, gradients=gradients, optimizer_state=_states(optimizer) * gradients)
    peak = cuda_peak()
    most = "" if peak is None else f"; the peak was {readable(peak)}"
    return f"{need}{most}"


def check_fits(need: Need, device: "torch.device") -> None:
    """Raise DeviceMemoryError where a GPU has less memory in all; a CPU's limit is not known."""
    import torch

    if device.type != "cuda":
        return
    _, memory = torch.cuda.mem_get_info(device)
    if need.total > memory:
        raise DeviceMemoryError(
            f"the model cannot be trained on this GPU of {readable(memory)}: {need};"
            " freeze more of the model, train an adapter (model.adapter), shard it over more GPUs"
            " (training.sharding: Full), or ask for a larger GPU"
        )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get memory, on a GPU or on the CPU."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error):
        return True
    return any(words in str(error) for words in NO_MEMORY)


def error_line(error: RuntimeError) -> str:
    """What torch said, as a part of a sentence: some errors that count as out of memory have another cause."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def next_micro_batch_size(size: int, longest: int, estimate: str, reason: str) -> int:
    """The next smaller micro-batch size. Raises DeviceMemoryError when one example does not fit.

    The error has the memory `estimate` and the `reason`, the line of torch's error.
    """
    if size <= 1:
        raise DeviceMemoryError(
            f"out of device memory with one example of {longest} tokens ({reason}): {estimate}; lower"
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
            f"out of device memory outside of forward and backward passes ({error_line(error)}):"
            f" {memory_estimate(model, optimizer)}; {less}, or use a larger device"
        ) from error


def peak() -> int:
    """Peak memory in bytes: allocated on the GPU if there is one, else resident in the process."""
    on_gpu = cuda_peak()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if on_gpu is None else on_gpu


def host_peak(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Peak memory in bytes of the container, or of this process where the kernel does not keep that of a container."""
    try:
        return int((groups / "memory.peak").read_text())
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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


def readable(size: int) -> str:
    """In the unit that fits."""
    return f"{size / GIBIBYTE:.2f} GiB" if size >= GIBIBYTE else f"{size / 2**20:.2f} MiB"
