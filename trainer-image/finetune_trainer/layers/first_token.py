"""Spares the last layer of an encoder what nobody reads.

A head that reads the first position alone needs of the last layer that position's output only: its attention to all
positions, but one projection and one feed-forward pass a row. Outputs and gradients stay what they are."""

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
    """Have the last layer go on with the first position after its attention; False where that is not known to fit."""
    if not any(type(part).__name__ in READERS_OF_THE_FIRST for part in model.modules()):
        return False
    last: Any = layers_of(model)[-1]
    last.attention.output.register_forward_pre_hook(_first_position)
    return True


def _first_position(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor[:, :1] for tensor in inputs)
