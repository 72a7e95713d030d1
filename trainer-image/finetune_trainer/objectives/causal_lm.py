"""Causal language modelling: cross-entropy of each position against the next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from finetune_api.objective import CausalLMSpec
from finetune_trainer.objectives.base import Forward, Inputs, Label, Loss
from finetune_trainer.objectives.language_model import LanguageModel, counted
from finetune_trainer.objectives.meters import NextTokenMeter

if TYPE_CHECKING:
    from torch import Tensor

    from finetune_trainer.layers.vocabulary import Vocabulary


@dataclass(frozen=True)
class CausalLM(LanguageModel[CausalLMSpec]):
    """Divided by its weight, the number of predicted tokens, it equals the loss of transformers' causal models."""

    labels: None = None
    field: ClassVar[str] = "objective.causalLM"

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

    def compute(self, forward: Forward, inputs: Inputs, targets: Tensor) -> Tensor:
        """(rows, longest, 2) at the place of every predicted token: its log-probability, and whether it was right.

        Without gradients; zeros elsewhere.
        """
        import torch

        places = counted(targets)

        def judge(hidden: Tensor, vocabulary: Vocabulary) -> Tensor:
            found = hidden.new_zeros(*targets.shape, 2, dtype=torch.float32)
            with torch.no_grad():
                found[:, 1:][places] = vocabulary.judged(hidden[:, :-1][places], targets[:, 1:][places])
            return found

        outputs: Tensor = forward(**inputs, reader=judge)
        return outputs

    def loss(self, outputs: Tensor, targets: Tensor) -> Loss:
        """Of what `compute` gives: the log-probabilities with a minus, summed, and the number of predicted tokens."""
        places = counted(targets)
        return Loss(-(outputs[:, 1:, 0] * places).sum(), places.sum().to(outputs.dtype))

    def training_loss(self, forward: Forward, inputs: Inputs, targets: Tensor) -> Loss:
        """The same, with gradients."""
        places = counted(targets)

        def read(hidden: Tensor, vocabulary: Vocabulary) -> Tensor:
            return vocabulary.cross_entropy(hidden[:, :-1][places], targets[:, 1:][places], "sum")

        total: Tensor = forward(**inputs, reader=read)
        return Loss(total, places.sum().to(total.dtype))

    def meter(self) -> NextTokenMeter:
        """Counts of predicted tokens."""
        return NextTokenMeter()
