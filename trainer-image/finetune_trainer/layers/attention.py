"""Fast attention on a CPU for texts of usual length.

Torch's scaled_dot_product_attention takes two ways there: without dropout a blockwise one, whose backward pass in
bfloat16 takes two to seven times as long as the plain computation, and with dropout a plain one, which draws the masks
number by number in one thread. Here the plain computation is written out, with the masks of `dropout`. Where torch's is
faster or its memory counts, in long texts, it is used. Measured by tests/bench/attention_speed.py."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.layers.dropout import dropout_mask

NAME, SHAPES = "finetune_cpu", "finetune_shapes"
LONGEST, LONGEST_FLOAT32 = 512, 64
"""Tokens up to which the plain computation is the faster one without dropout."""
OTHER_KINDS = ("softcap", "position_bias", "s_aux", "cache")
"""Arguments by which transformers asks for more than is computed here."""


def use_fast_attention(model: nn.Module) -> None:
    """Have every model of transformers in `model` whose attention can be chosen compute it here."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)
    for part in of_transformers(model, "sdpa"):
        part.config._attn_implementation = NAME


def use_attention_for_shapes(model: nn.Module, *, fused: bool) -> None:
    """Have attention computed without values: `fused` as on a GPU, which keeps no mask of its dropout, else as here."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

    def without_dropout(*given: Any, dropout: float = 0.0, **others: Any) -> Any:
        return sdpa_attention_forward(*given, dropout=0.0 * dropout, **others)

    computed = without_dropout if fused else partial(attend, draw=_any_mask)
    AttentionInterface.register(SHAPES, computed)
    AttentionMaskInterface.register(SHAPES, sdpa_mask if fused else eager_mask)
    for part in of_transformers(model, "sdpa"):
        part.config._attn_implementation = SHAPES


def of_transformers(model: nn.Module, attention: str) -> Iterator[Any]:
    """Its models of transformers that compute attention in the named way."""
    from transformers import PreTrainedModel

    for part in model.modules():
        if isinstance(part, PreTrainedModel) and part.config._attn_implementation == attention:
            yield part


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    draw: Callable[[Tensor, float], Tensor] = dropout_mask,
    **others: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention (Vaswani et al. 2017), as transformers calls it.

    Query (rows, heads, length, size), key and value with as many heads or a divisor of them, and a mask that is added
    to the scores; `draw` makes the masks of dropout. Returns (rows, length, heads, size).
    """
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    query, key, value = as_autocast(query, key, value)
    long = key.shape[2] > (LONGEST_FLOAT32 if query.dtype is torch.float32 else LONGEST)
    unmasked_decoder = attention_mask is None and getattr(module, "is_causal", False)
    if (
        (long and not dropout)
        or unmasked_decoder
        or any(others.get(kind) is not None for kind in OTHER_KINDS)
    ):
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    with torch.autocast(query.device.type, enabled=False):  # which would compute the softmax in float32
        scores = torch.matmul(query * (scaling or query.shape[-1] ** -0.5), key.transpose(2, 3))
        if attention_mask is not None:
            # float32's least number is infinite in bfloat16: a row without a key would have no softmax
            least = torch.finfo(scores.dtype).min
            scores = scores + attention_mask.to(scores.dtype).clamp(min=least)
        weights = torch.softmax(scores, -1)
        dropped = weights * draw(weights, dropout) if dropout else weights
        return torch.matmul(dropped, value).transpose(1, 2).contiguous(), None


def _any_mask(like: Tensor, _probability: float) -> Tensor:
    return torch.empty_like(like)


def as_autocast(*parts: Tensor) -> tuple[Tensor, ...]:
    """In the number format that autocast gives to torch's attention: rotated positions leave it in float32."""
    kind = parts[0].device.type
    if not torch.is_autocast_enabled(kind):
        return parts
    return tuple(part.to(torch.get_autocast_dtype(kind)) for part in parts)
