"""Attention of texts that share a sequence, by torch's kernels for texts of various lengths.

They compute what a block-diagonal mask leaves, without padding and without the mask, whose memory grows with the square
of the sequence. Torch has them for GPUs, in 16 bits and without dropout."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from finetune_trainer.layers.attention import OTHER_KINDS, as_autocast, of_transformers

NAME = "finetune_varlen"
BOUNDS = "cu_seq_lens_q"
"""Input with the first token of each text, and the number of tokens; models hand it on to their attention."""
CAUSAL = (-1, 0)
"""The window of a text: all tokens before a token, and none behind it."""
Kernel = Callable[..., Any]


def use_varlen_attention(model: nn.Module, longest: int, kernel: Kernel | None = None) -> None:
    """Have the models of transformers in `model` compute texts of at most `longest` tokens by `kernel`, torch's own.

    Inputs without BOUNDS are computed as before.
    """
    from torch.nn.attention.varlen import varlen_attn
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, partial(attend_varlen, longest=longest, kernel=kernel or varlen_attn))
    AttentionMaskInterface.register(NAME, sdpa_mask)
    for part in of_transformers(model, "sdpa"):
        part.config._attn_implementation = NAME


def leave_varlen_attention(model: nn.Module) -> None:
    """As it was before `use_varlen_attention`."""
    for part in of_transformers(model, NAME):
        part.config._attn_implementation = "sdpa"


def attend_varlen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    longest: int,
    kernel: Kernel,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each text, as transformers calls it. Raises ValueError for what the kernel lacks."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    bounds = others.pop(BOUNDS, None)
    if bounds is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    lacking = [kind for kind in OTHER_KINDS if others.get(kind) is not None] + ["dropout"] * (dropout > 0)
    if lacking:
        raise ValueError(f"torch's kernel has no {' and no '.join(lacking)}")
    rows, heads, tokens, _ = query.shape
    grouped = heads != key.shape[1]
    query, key, value = (part.transpose(1, 2).flatten(0, 1) for part in as_autocast(query, key, value))
    found = kernel(
        query,
        key,
        value,
        bounds,
        bounds,
        longest,
        longest,
        scale=scaling,
        window_size=CAUSAL,
        enable_gqa=grouped,
    )
    return found.reshape(rows, tokens, heads, -1), None
