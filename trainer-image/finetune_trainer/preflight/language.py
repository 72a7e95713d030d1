"""The memory of a language model's scores, whose last layer is computed for some positions at a time.

A forward pass on shapes cannot select positions, so the body alone is computed, and the last layer is counted.
"""

from typing import Any

import torch

from finetune_trainer.layers.vocabulary import POSITIONS
from finetune_trainer.objectives import Objective
from finetune_trainer.objectives.base import Inputs
from finetune_trainer.objectives.language_model import LanguageModel, counted

_SCORES = 3
"""Of a part: the scores, their softmax and their gradient, in float32."""
_OF_THE_LOSS = ("answer_tokens", "reference")


def computed_at_once(objective: Objective[Any], inputs: Inputs, targets: torch.Tensor) -> tuple[Inputs, int]:
    """What the model computes with gradients in one pass, and at how many positions a token is predicted.

    Of preferences these are both answers to each prompt; KTO's second ones, of which the baseline is computed, are
    without gradients. The reference's log-probabilities are two numbers a row: no second model is in memory.
    """
    tokens = inputs.get("answer_tokens", targets)
    if objective.looks_ahead:
        inputs = {name: tensor.chunk(2)[0] for name, tensor in inputs.items()}
        tokens = tokens.chunk(2)[0]
    given = {name: tensor for name, tensor in inputs.items() if name not in _OF_THE_LOSS}
    return given, int(counted(tokens).sum())


def body_of(model: Any, objective: Objective[Any]) -> Any | None:
    """What computes hidden states; None where scores of all positions are computed at once."""
    if not isinstance(objective, LanguageModel):
        return None
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.base_model if inner.get_output_embeddings() is not None else None


def scores_of(model: Any, hidden: torch.Tensor, positions: int) -> int:
    """Bytes of the hidden states that predict, with their gradients, and of one part's scores."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    vocabulary = int(inner.get_output_embeddings().weight.shape[0])
    part = min(positions, POSITIONS) * vocabulary * 4 * _SCORES
    return part + 2 * positions * hidden.shape[-1] * hidden.element_size()
