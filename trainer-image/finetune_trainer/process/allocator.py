"""Keeps freed memory for the next step, so that the kernel need not hand out and clear it again and again."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""
KEPT_BYTES = 2**30
"""Larger blocks are given back when they are freed, and so is a larger free end of the heap."""


def keep_freed_memory() -> bool:
    """Raise the thresholds of glibc's malloc; False where the C library has none, and nothing changes.

    By default blocks above 32 MB are mapped for every allocation: the gradient of an embedding costs some ten thousand
    page faults a step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(option, KEPT_BYTES) == 1 for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
