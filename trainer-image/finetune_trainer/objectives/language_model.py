"""What objectives have in common whose outputs are the vocabulary."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from finetune_api.run import FaultPlace
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.objectives.base import IGNORED, Label, Objective, Options

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)


class LanguageModel(Objective[Options]):
    """Trains a model that predicts the next token."""

    per_token: ClassVar[bool] = True
    labelled: ClassVar[bool] = False
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    field: ClassVar[str]
    """Of the spec."""

    @property
    def outputs(self) -> None:
        """None: the model's vocabulary."""
        return

    def encode(self, values: Sequence[Label]) -> Any:
        """Never called: the targets are the tokens themselves."""
        raise NotImplementedError

    def check(self, model: Any) -> None:
        """Refuse a model whose tokens attend to later ones: it would learn to copy, not to predict."""
        from finetune_trainer.layers.probes import sees_what_follows

        if sees_what_follows(model):
            raise ConfigurationError(
                f"{self.field}: {type(model).__name__} of this model is bidirectional and would see"
                " the tokens to predict; use a left-to-right (causal) model, such as GPT-2 or Llama",
                FaultPlace(field="model.uri"),
            )

    def prepare(self, model: Any) -> None:
        """Have the last layer computed where tokens are predicted, and never for all positions at once."""
        from finetune_trainer.layers.vocabulary import separate

        reason = separate(model)
        if reason is not None:
            logger.info(f"scores of the vocabulary are computed for all positions at once: {reason}")


def counted(targets: Tensor) -> Tensor:
    """Which of targets[:, 1:] are predicted, each from the position before it."""
    return targets[:, 1:] != IGNORED
