"""Puts examples together to the model's inputs. Called by `loop` and `evaluate` for every micro-batch."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.batching import Indices
from finetune_trainer.data.tokens import Examples
from finetune_trainer.objectives.base import IGNORED

if TYPE_CHECKING:
    import torch


def collate(
    examples: Examples, batch: Indices, pad_id: int, device: "torch.device | None" = None
) -> tuple[dict[str, "torch.Tensor"], "torch.Tensor"]:
    """Inputs of the model (rows, longest) padded on the right, and targets (rows, …), per token (rows, longest)."""
    import torch

    lengths = examples.lengths[batch]
    mask = np.arange(lengths.max()) < lengths[:, None]
    where = np.concatenate([np.arange(examples.offsets[i], examples.offsets[i + 1]) for i in batch])
    arrays = {
        "input_ids": _filled(mask, examples.ids[where], pad_id),
        "attention_mask": mask.astype(np.int64),
    }
    if examples.types is not None:
        arrays["token_type_ids"] = _filled(mask, examples.types[where], 0)
    targets = (
        _filled(mask, examples.targets[where], IGNORED) if examples.per_token else examples.targets[batch]
    )
    inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    return inputs, torch.from_numpy(np.asarray(targets)).to(device)


def _filled(mask: npt.NDArray[np.bool_], values: npt.NDArray[Any], otherwise: int) -> Indices:
    array = np.full(mask.shape, otherwise, dtype=np.int64)
    array[mask] = values
    return array
