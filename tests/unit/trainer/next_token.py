"""Language models whose scores are given: what the objective computes of them."""

from typing import Any

from finetune_trainer.objectives.base import Loss
from finetune_trainer.objectives.causal_lm import CausalLM


def _forward(scores: Any) -> Any:
    """A model's forward pass that returns what a reader makes of its scores (rows, longest, vocabulary)."""
    from torch.nn import Identity

    from finetune_trainer.layers.vocabulary import Vocabulary

    return lambda reader: reader(scores, Vocabulary(Identity()))


def outputs_of(scores: Any, targets: Any) -> Any:
    """As an evaluation computes them."""
    return CausalLM().compute(_forward(scores), {}, targets)


def loss_of(scores: Any, targets: Any) -> Loss:
    """As training computes it, with gradients."""
    return CausalLM().training_loss(_forward(scores), {}, targets)
