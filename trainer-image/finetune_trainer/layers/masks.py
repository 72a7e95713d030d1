"""Attention masks."""

import numpy as np
import numpy.typing as npt


def block_causal(documents: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """What is added to attention scores (rows, 1, longest, longest): 0 where a token may look, else the least float32.

    `documents` (rows, longest) says to which document a position belongs. A token attends to those
    of the same document up to itself. Padding is a separate document, so it attends to something too, and softmax
    stays finite.
    """
    same = documents[:, :, None] == documents[:, None, :]
    seen = same & np.tri(documents.shape[1], dtype=np.bool_)
    return np.where(seen, np.float32(0), np.finfo(np.float32).min)[:, None]
