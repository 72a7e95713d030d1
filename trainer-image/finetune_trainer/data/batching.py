"""Which examples form which optimizer step: a pure function of (lengths, batch size, seed, epoch).

Called by `loop` and `evaluate`.

Examples of like length go into one batch, so that little is computed on padding: the examples are shuffled, sorted by
length within pools of some batches, cut into batches, and the batches shuffled. As nothing but (seed, epoch) enters,
the position of a run in its data is its step number.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.tokens import Examples

if TYPE_CHECKING:
    import torch

POOL_BATCHES = 50
Indices = npt.NDArray[np.int64]


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps in one pass; the last batch may be smaller, its rows count like all others."""
    return -(-rows // batch_size)


def epoch_batches(lengths: Indices, batch_size: int, seed: int, epoch: int) -> list[Indices]:
    """The batches of one pass over the data: every example exactly once, the longest first within a batch."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    pool = batch_size * POOL_BATCHES
    batches = [
        batch
        for start in range(0, len(order), pool)
        for batch in _cut(_longest_first(order[start : start + pool], lengths), batch_size)
    ]
    return [batches[i] for i in random.permutation(len(batches))]


def evaluation_batches(lengths: Indices, batch_size: int) -> list[Indices]:
    """All examples by falling length: out of memory shows at once, and padding is least."""
    return list(_cut(_longest_first(np.arange(len(lengths)), lengths), batch_size))


def micro_batches(batch: Indices, size: int) -> Iterator[Indices]:
    """Slices of an optimizer step's batch, one for each forward pass."""
    yield from _cut(batch, size)


def _longest_first(indices: Indices, lengths: Indices) -> Indices:
    return indices[np.argsort(-lengths[indices], kind="stable")]


def _cut(indices: Indices, size: int) -> Iterator[Indices]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def collate(
    examples: Examples, batch: Indices, pad_id: int, device: "torch.device | None" = None
) -> tuple[dict[str, "torch.Tensor"], "torch.Tensor"]:
    """Inputs of the model (rows, longest) padded on the right, and targets (rows,)."""
    import torch

    lengths = examples.lengths[batch]
    mask = np.arange(lengths.max()) < lengths[:, None]
    where = np.concatenate([np.arange(examples.offsets[i], examples.offsets[i + 1]) for i in batch])
    arrays = {
        "input_ids": np.full(mask.shape, pad_id, dtype=np.int64),
        "attention_mask": mask.astype(np.int64),
    }
    arrays["input_ids"][mask] = examples.ids[where]
    if examples.types is not None:
        arrays["token_type_ids"] = np.zeros(mask.shape, dtype=np.int64)
        arrays["token_type_ids"][mask] = examples.types[where]
    inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    return inputs, torch.from_numpy(examples.targets[batch]).to(device)
