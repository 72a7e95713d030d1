"""Puts several documents into one sequence, where none sees another. Called by `collation`; pure."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def pack(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Documents by sequence of at most `width` tokens: best fit, the longest first (Johnson 1973).

    At most 11/9 of the fewest sequences possible, plus one.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for document in sorted(range(len(lengths)), key=lambda document: (-lengths[document], document)):
        length = lengths[document]
        fitting = [row for row, left in enumerate(room) if left >= length]
        if not fitting:
            rows.append([document])
            room.append(width - length)
            continue
        row = min(fitting, key=lambda row: (room[row], row))
        rows[row].append(document)
        room[row] -= length
    return rows


def block_causal(documents: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """What is added to attention scores (rows, 1, longest, longest): 0 where a token may look, else the least float32.

    `documents` (rows, longest) says to which document a position belongs. A token sees those of its own document up to
    itself; so padding, a document of its own, sees something too, and softmax stays finite.
    """
    same = documents[:, :, None] == documents[:, None, :]
    seen = same & np.tri(documents.shape[1], dtype=np.bool_)
    return np.where(seen, np.float32(0), np.finfo(np.float32).min)[:, None]
