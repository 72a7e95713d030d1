"""Puts examples together to the model's inputs."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finetune_trainer.data.batching import Indices
from finetune_trainer.data.packing import pack
from finetune_trainer.data.tokens import Examples
from finetune_trainer.layers.masks import block_causal
from finetune_trainer.layers.varlen import BOUNDS
from finetune_trainer.objectives.base import IGNORED

Arrays = dict[str, npt.NDArray[Any]]


def collate(
    examples: Examples, batch: Indices, pad_id: int, device: torch.device | None = None
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs of the model (rows, longest) padded on the right, and targets (rows, …), per token (rows, longest).

    Packed examples share rows; attention_mask is then (rows, 1, longest, longest), to be added to attention scores, and
    position_ids begin at 0 with every example. Those of `varlen` share one row without padding, and BOUNDS stand in
    place of a mask. The first target of an example being IGNORED, none is predicted by another one.
    """
    if examples.firsts is not None:
        return _answers(examples, batch, pad_id, device)
    packed = _joined if examples.varlen else _packed
    arrays, targets = (_padded if examples.packed_to is None else packed)(examples, batch, pad_id)
    inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    return inputs, torch.from_numpy(targets).to(device)


def _answers(
    examples: Examples, batch: Indices, pad_id: int, device: torch.device | None
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The first answers of all rows, then the second ones, as `Preference.compute` takes them; targets are labels."""
    assert examples.firsts is not None and examples.labels is not None
    starts, firsts = examples.offsets[batch], examples.firsts[batch]
    lengths = np.concatenate([firsts, examples.lengths[batch] - firsts])
    begins = np.concatenate([starts, starts + firsts])
    mask = np.arange(lengths.max()) < lengths[:, None]
    where = np.concatenate([np.arange(begin, begin + n) for begin, n in zip(begins, lengths, strict=True)])
    reference = np.zeros((len(batch), 2), np.float32)
    if examples.reference is not None:
        reference[:] = examples.reference[batch]
    arrays = {
        "input_ids": _filled(mask, examples.ids[where], pad_id),
        "attention_mask": mask.astype(np.int64),
        "answer_tokens": _filled(mask, examples.targets[where], IGNORED),
        "reference": reference,
    }
    inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    return inputs, torch.from_numpy(np.asarray(examples.labels[batch])).to(device)


def places(examples: Examples, batch: Indices) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Where arrays of one entry for every row, or token, have those of a batch.

    Of tokens also which positions of the padded batch (rows, longest) they belong to.
    """
    rows = torch.from_numpy(batch)
    if not examples.per_token:
        return rows, None
    starts, lengths = (torch.from_numpy(each[batch]) for each in (examples.offsets, examples.lengths))
    position = torch.arange(int(lengths.max()))
    mask = position < lengths[:, None]
    return (starts[:, None] + position)[mask], mask


def _padded(examples: Examples, batch: Indices, pad_id: int) -> tuple[Arrays, npt.NDArray[Any]]:
    lengths = examples.lengths[batch]
    mask = np.arange(lengths.max()) < lengths[:, None]
    where = _tokens_of(examples, batch)
    arrays = {
        "input_ids": _filled(mask, examples.ids[where], pad_id),
        "attention_mask": mask.astype(np.int64),
    }
    if examples.types is not None:
        arrays["token_type_ids"] = _filled(mask, examples.types[where], 0)
    if examples.per_token:
        return arrays, _filled(mask, examples.targets[where], IGNORED)
    return arrays, np.asarray(examples.targets[batch])


def _packed(examples: Examples, batch: Indices, pad_id: int) -> tuple[Arrays, npt.NDArray[Any]]:
    assert examples.per_token and examples.packed_to is not None
    lengths = examples.lengths[batch]
    rows = pack(lengths.tolist(), examples.packed_to)
    sizes = np.asarray([lengths[row].sum() for row in rows])
    mask = np.arange(sizes.max()) < sizes[:, None]
    order = np.concatenate(rows)
    where = _tokens_of(examples, batch[order])
    starts = np.repeat(np.cumsum(lengths[order]) - lengths[order], lengths[order])
    arrays: Arrays = {
        "input_ids": _filled(mask, examples.ids[where], pad_id),
        "position_ids": _filled(mask, np.arange(len(where)) - starts, 0),
        "attention_mask": block_causal(_filled(mask, np.repeat(order, lengths[order]), -1)),
    }
    return arrays, _filled(mask, examples.targets[where], IGNORED)


def _joined(examples: Examples, batch: Indices, _pad_id: int) -> tuple[Arrays, npt.NDArray[Any]]:
    lengths, where = examples.lengths[batch], _tokens_of(examples, batch)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    arrays: Arrays = {
        "input_ids": examples.ids[where].astype(np.int64)[None],
        "position_ids": (np.arange(len(where)) - np.repeat(bounds[:-1], lengths))[None],
        "attention_mask": np.ones((1, len(where)), np.int64),
        BOUNDS: bounds.astype(np.int32),
    }
    return arrays, examples.targets[where].astype(np.int64)[None]


def _tokens_of(examples: Examples, batch: Indices) -> Indices:
    return np.concatenate([np.arange(examples.offsets[i], examples.offsets[i + 1]) for i in batch])


def _filled(mask: npt.NDArray[np.bool_], values: npt.NDArray[Any], otherwise: int) -> Indices:
    array = np.full(mask.shape, otherwise, dtype=np.int64)
    array[mask] = values
    return array
