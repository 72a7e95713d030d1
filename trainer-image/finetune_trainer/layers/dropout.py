"""Dropout with masks that cost little on a CPU.

Torch draws the masks of a CPU number by number in one thread, which takes a noticeable part of a step. Here one number
is drawn from torch's generator for a mask, and seeds SFC64 (Doty-Humphrey 2010), which fills it with 16 random bits an
element. So torch's generator alone decides, and a checkpoint needs nothing new for an exact resume."""

import numpy as np
import torch
from torch import Tensor, nn

_LEVELS = 2**16
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By size in bytes: a mask is the bits of one number or zero, which NumPy, that knows no bfloat16, can write too."""


def use_fast_dropout(model: nn.Module) -> None:
    """Replace every nn.Dropout of a model on the CPU, in place; evaluation and the saved weights stay as they are."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout and not child.inplace:
                setattr(parent, name, FastDropout(child.p))


class FastDropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014) of each element with probability `p`, to the nearest 65,536th."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Zero elements at random and scale the others so that the mean stays; in evaluation the input itself."""
        if not self.training or self.p == 0:
            return input
        return input * dropout_mask(input, self.p)


class PartialDropout(nn.Dropout):
    """Dropout of what ranks have different parts of, along the last dimension.

    All draw the masks of the whole, by generators in the same state, and each takes its part: so they drop what one
    process would.
    """

    def __init__(self, p: float, rank: int, ranks: int) -> None:
        super().__init__(p)
        self.rank, self.ranks = rank, ranks

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Zero elements at random and scale the others so that the mean stays; in evaluation the input itself."""
        if not self.training or self.p == 0:
            return input
        whole = input.new_ones(*input.shape[:-1], input.shape[-1] * self.ranks)
        on_cpu = input.device.type == "cpu"
        masks = dropout_mask(whole, self.p) if on_cpu else nn.functional.dropout(whole, self.p)
        return input * masks.chunk(self.ranks, dim=-1)[self.rank]


def dropout_mask(like: Tensor, probability: float) -> Tensor:
    """Factors of `like`'s shape and type: 0 for an element to drop, else what keeps the mean.

    Made by NumPy, whose loops over 16-bit integers take a fifth of the time of torch's.
    """
    dropped = min(round(probability * _LEVELS), _LEVELS - 1)
    kept = torch.tensor(_LEVELS / (_LEVELS - dropped), dtype=like.dtype)
    seed = int(torch.empty((), dtype=torch.int64).random_())
    words = np.random.SFC64(seed).random_raw(-(-like.numel() // 4))
    stays = words.view(np.uint16)[: like.numel()] >= dropped
    pattern = kept.view(_INTEGERS[like.element_size()]).numpy()
    return torch.from_numpy(np.multiply(stays, pattern)).view(like.dtype).view(like.shape)
