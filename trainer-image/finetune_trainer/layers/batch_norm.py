"""Layers with running statistics: what a forward pass in training changes, and rows that are not part of the batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Statistics = list[tuple[Tensor, Tensor]]
"""Buffers of batch normalisation, each with a copy of its content."""


def norms_of(model: nn.Module) -> list[nn.Module]:
    """Layers with running statistics, which every forward pass in training changes."""
    return [module for module in model.modules() if hasattr(module, "running_mean")]


def running_statistics(norms: list[nn.Module]) -> Statistics:
    """What the layers hold now."""
    return [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]


def restore_statistics(statistics: Statistics) -> None:
    """Undo what forward passes did to running statistics."""
    for buffer, content in statistics:
        buffer.copy_(content)


@contextmanager
def rows_excluded(norms: list[nn.Module]) -> Iterator[None]:
    """Within it, layers that normalise over all ranks exclude this rank's rows, which are computed for the others."""
    synchronised: list[Any] = [norm for norm in norms if hasattr(norm, "rows_contribute")]
    for norm in synchronised:
        norm.rows_contribute = False
    try:
        yield
    finally:
        for norm in synchronised:
            norm.rows_contribute = True
