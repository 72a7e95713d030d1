"""Keeps freed memory for the next step, so that the kernel need not hand out and clear it again and again."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""
KEPT_BYTES = 2**30
"""Larger blocks are given back when they are freed, and so is a larger free end of the heap."""
MAPPED_BYTES = 2**16
"""While memory is returned."""


def keep_freed_memory() -> bool:
    """Raise the thresholds of glibc's malloc; False where the C library has none, and nothing changes.

    By default blocks above 32 MB are mapped for every allocation: the gradient of an embedding costs some ten thousand
    page faults a step.
    """
    return _set(M_MMAP_THRESHOLD, KEPT_BYTES) and _set(M_TRIM_THRESHOLD, KEPT_BYTES)


@contextmanager
def returning_freed_memory() -> Iterator[None]:
    """Meanwhile blocks above 64 KiB are given back when they are freed; afterwards they are kept.

    For weights that are converted matrix by matrix: on the heap what stays of one would lie behind what is freed of it,
    and many a hole between two is too small for what the next one needs.
    """
    _set(M_MMAP_THRESHOLD, MAPPED_BYTES)
    try:
        yield
    finally:
        _set(M_MMAP_THRESHOLD, KEPT_BYTES)


def _set(option: int, value: int) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(option, value) == 1)
