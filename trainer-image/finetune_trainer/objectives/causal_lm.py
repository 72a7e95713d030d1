"""Causal language modelling: cross-entropy of each position against the next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune_api.objective import CausalLMSpec
from finetune_api.run import FaultPlace
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.objectives.base import IGNORED, Label, Loss, Objective
from finetune_trainer.objectives.losses import summed_cross_entropy
from finetune_trainer.objectives.meters import NextTokenMeter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CausalLM(Objective[CausalLMSpec]):
    """Divided by its weight, the number of predicted tokens, it equals the loss of transformers' causal models."""

    labels: None = None
    per_token: ClassVar[bool] = True
    labelled: ClassVar[bool] = False
    auto_class: ClassVar[str] = "AutoModelForCausalLM"

    @classmethod
    def read_label(cls, options: CausalLMSpec, value: object, labels: list[str] | None) -> Label:
        """None: the text itself is learned."""
        return None

    @classmethod
    def found_labels(cls, options: CausalLMSpec, values: Sequence[Label], source: str) -> list[str] | None:
        """None: the text itself is learned."""
        return None

    @classmethod
    def build(cls, options: CausalLMSpec, labels: list[str] | None, values: Sequence[Label]) -> CausalLM:
        """Nothing depends on the data; prompts are masked where the targets are made."""
        return cls()

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
                f"objective.causalLM: {type(model).__name__} of this model is bidirectional and would see"
                " the tokens to predict; use a left-to-right (causal) model, such as GPT-2 or Llama",
                FaultPlace(field="model.uri"),
            )

    def loss(self, logits: Tensor, targets: Tensor) -> Loss:
        """Cross-entropy of logits[:, :-1] against targets[:, 1:], summed, and the number of predicted tokens."""
        from torch.nn.functional import pad

        # the targets are moved, not the logits: these are large and would be copied
        following = pad(targets[:, 1:], (0, 1), value=IGNORED)
        return summed_cross_entropy(logits.flatten(0, 1), following.flatten())

    def meter(self) -> NextTokenMeter:
        """Counts of predicted tokens."""
        return NextTokenMeter()
