"""Attention with the masks of `dropout` for training on the CPU. Called by `assembly` once the model is built.

With attention dropout torch's scaled_dot_product_attention takes its plain path on a CPU, and draws the masks number by
number in one thread. Here the same is written out with cheaper masks. Without dropout, in evaluation among others,
torch's own is used. The scores of a layer are kept for the backward pass either way.
"""

from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.dropout import dropout_mask

NAME = "finetune_cpu"
DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
"""Of transformers' configurations."""


def use_fast_attention(model: nn.Module) -> None:
    """Have every model of transformers in `model` that drops attention out, and lets itself be told how, use it."""
    from transformers import AttentionInterface, PreTrainedModel
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and part.config._attn_implementation == "sdpa" and _drops(part.config):
            part.config._attn_implementation = NAME


def _drops(config: Any) -> bool:
    return any(getattr(config, name, None) for name in DROPOUTS)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention (Vaswani et al. 2017), as transformers calls it.

    Query (rows, heads, length, size), key and value with as many heads or a divisor of them, and a mask that is added
    to the scores; returns (rows, length, heads, size).
    """
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    if not dropout:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=0.0, scaling=scaling, **others
        )
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = torch.matmul(query * (scaling or query.shape[-1] ** -0.5), key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, -1).to(value.dtype)
    dropped = weights * dropout_mask(weights, dropout)
    return torch.matmul(dropped, value).transpose(1, 2).contiguous(), None
