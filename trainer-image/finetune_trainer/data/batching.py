"""Which examples form which optimizer step: a pure function of (lengths, batch size, seed, epoch).

Examples of similar length share a batch, so that there is little padding: the examples are shuffled, sorted by
length within pools of some batches, cut into batches, and the batches shuffled. As nothing but (seed, epoch) enters,
the position of a run in its data is its step number."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

POOL_BATCHES = 50
Indices = npt.NDArray[np.int64]


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps in one pass; the last batch may be smaller, its rows count like all others."""
    return -(-rows // batch_size)


class Batches:
    """The batches of one pass over the data: one int64 a row and one a batch, whatever the number of rows."""

    def __init__(self, rows: Indices, batch_size: int, order: Indices | None = None) -> None:
        self._rows, self._size, self._order = rows, batch_size, order

    def __len__(self) -> int:
        return steps_per_epoch(len(self._rows), self._size)

    def __getitem__(self, position: int) -> Indices:
        """The rows of a batch, the longest first."""
        if not 0 <= position < len(self):
            raise IndexError(position)
        start = self._size * (position if self._order is None else int(self._order[position]))
        return self._rows[start : start + self._size]

    def __iter__(self) -> Iterator[Indices]:
        return (self[position] for position in range(len(self)))


def epoch_batches(lengths: Indices, batch_size: int, seed: int, epoch: int) -> Batches:
    """The batches of one pass over the data: every example exactly once, the longest first within a batch."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    pool = batch_size * POOL_BATCHES
    for start in range(0, len(order), pool):
        order[start : start + pool] = _longest_first(order[start : start + pool], lengths)
    return Batches(order, batch_size, random.permutation(steps_per_epoch(len(order), batch_size)))


def evaluation_batches(lengths: Indices, batch_size: int) -> Batches:
    """All examples by falling length: out of memory shows at once, and padding is least."""
    return Batches(np.argsort(-lengths, kind="stable"), batch_size)


def micro_batches(batch: Indices, size: int) -> Iterator[Indices]:
    """Slices of an optimizer step's batch, one for each forward pass."""
    for start in range(0, len(batch), size):
        yield batch[start : start + size]


def _longest_first(indices: Indices, lengths: Indices) -> Indices:
    return indices[np.argsort(-lengths[indices], kind="stable")]
