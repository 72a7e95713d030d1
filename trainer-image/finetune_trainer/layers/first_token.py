"""Skips computations of an encoder's last layer whose result is not used.

A head that reads only the first position needs only that position's output of the last layer: its attention to all
positions, but one projection and one feed-forward pass per row. Outputs and gradients do not change."""

from typing import Any

from torch import Tensor, nn

from finetune_trainer.layers.find import layers_of

READERS_OF_THE_FIRST = frozenset(
    {
        "BertForSequenceClassification",
        "CamembertForSequenceClassification",
        "ElectraForSequenceClassification",
        "RobertaForSequenceClassification",
        "XLMRobertaForSequenceClassification",
    }
)
"""Classes of transformers whose pooler or head takes hidden[:, 0] and whose layers end in attention.output and a
feed-forward part, each position for itself."""


def narrow_last_layer(model: nn.Module) -> bool:
    """Restrict the last layer to the first position after its attention; False for an unknown architecture."""
    if not any(type(part).__name__ in READERS_OF_THE_FIRST for part in model.modules()):
        return False
    last: Any = layers_of(model)[-1]
    last.attention.output.register_forward_pre_hook(_first_position)
    return True


def _first_position(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor[:, :1] for tensor in inputs)
