"""Preference tuning of a causal language model: answers that people prefer become more probable than others.

A row is a pair of answers to one prompt. KTO's rows are single answers with a label; its second answer belongs to
another prompt, and measures how much more probable answers become in general, the baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from finetune_api.objective import PreferenceSpec
from finetune_api.run import FaultPlace
from finetune_trainer.errors import DataError
from finetune_trainer.objectives.base import Forward, Inputs, Label, Loss
from finetune_trainer.objectives.language_model import LanguageModel, counted
from finetune_trainer.objectives.preference.losses import Answers, kto_losses, pair_losses
from finetune_trainer.objectives.preference.meter import RewardMeter, SingleMeter

if TYPE_CHECKING:
    from torch import Tensor

    from finetune_trainer.layers.vocabulary import Vocabulary

YES, NO = (True, 1, "true", "True", "TRUE", "1"), (False, 0, "false", "False", "FALSE", "0")


@dataclass(frozen=True)
class Preference(LanguageModel[PreferenceSpec]):
    """Divided by its weight, the number of rows, it is the mean of the formulas in `losses`."""

    spec: PreferenceSpec
    labels: None = None
    field: ClassVar[str] = "objective.preference"

    @classmethod
    def read_label(cls, options: PreferenceSpec, value: object, labels: list[str] | None) -> Label:
        """1 for a good answer and 0 for a bad one; pairs have no label."""
        if value in YES and not isinstance(value, float):
            return 1.0
        if value in NO and not isinstance(value, float):
            return 0.0
        raise ValueError(f"is {str(value)[:40]!r}; write true for a good answer and false for a bad one")

    @classmethod
    def found_labels(cls, options: PreferenceSpec, values: Sequence[Label], source: str) -> None:
        """None; good and bad answers must both be there."""
        if options.loss.paired or len(set(values)) == 2:
            return
        only = "true" if values[0] == 1 else "false"
        raise DataError(
            f"{source}: every row has the label {only}; loss: KTO learns from good and bad answers, so give both, or"
            " train on the good ones with objective.causalLM",
            FaultPlace(field="dataset.columns.label", file=source),
        )

    @classmethod
    def build(cls, options: PreferenceSpec, labels: list[str] | None, values: Sequence[Label]) -> Preference:
        """Nothing depends on the data."""
        return cls(options)

    def compute(self, forward: Forward, inputs: Inputs, targets: Tensor) -> Tensor:
        """`losses.Answers` as (rows, 6): log-probabilities of both answers, of the reference, and numbers of tokens.

        `inputs` has the first answers of all rows, then the second ones; with `answer_tokens`, whose tokens count, and
        the `reference` (rows, 2).
        """
        import torch

        tokens = inputs["answer_tokens"]
        found = answer_log_probabilities(forward, inputs)
        counts = counted(tokens).sum(dim=1).to(found.dtype)
        reference = inputs["reference"].to(found.dtype).unbind(dim=1)
        return torch.stack([*found.chunk(2), *reference, *counts.chunk(2)], dim=1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Loss:
        """Summed over the rows, with their number. KTO's baseline is that of these rows, where `training_loss` has one
        of the whole step and the meter one of all rows.
        """
        answers = Answers.of(outputs)
        if self.looks_ahead:
            baseline = answers.second_gain.mean().clamp(min=0)
            losses = kto_losses(self.spec, answers.gain, targets.to(outputs.dtype), baseline)
        else:
            losses = pair_losses(self.spec, answers)
        return Loss(losses.sum(), outputs.new_tensor(float(len(outputs))))

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares with what the model predicts before training."""
        return self.spec.loss.needs_reference

    @property
    def looks_ahead(self) -> bool:
        """Whether the loss of a row depends on all rows of the step."""
        return not self.spec.loss.paired

    def look_ahead(self, forward: Forward, inputs: Inputs) -> Tensor:
        """What answers to other prompts gained, summed over the rows."""
        found = answer_log_probabilities(forward, _half(inputs, 1))
        return (found - inputs["reference"][:, 1]).sum()

    def training_loss(self, forward: Forward, inputs: Inputs, targets: Tensor) -> Loss:
        """With gradients; of KTO against `inputs["ahead"]`, the mean of `look_ahead` over the step."""
        if not self.looks_ahead:
            return super().training_loss(forward, inputs, targets)
        gain = answer_log_probabilities(forward, _half(inputs, 0)) - inputs["reference"][:, 0]
        baseline = inputs["ahead"].to(gain.dtype).clamp(min=0)
        losses = kto_losses(self.spec, gain, targets.to(gain.dtype), baseline)
        return Loss(losses.sum(), gain.new_tensor(float(len(gain))))

    def meter(self) -> RewardMeter:
        """Rewards of both answers, or of one with its label."""
        return RewardMeter(self.spec) if self.spec.loss.paired else SingleMeter(self.spec)


def _half(inputs: Inputs, number: int) -> Inputs:
    """The first or the second answers."""
    sequences = ("input_ids", "attention_mask", "answer_tokens")
    return {name: inputs[name].chunk(2)[number] for name in sequences}


def answer_log_probabilities(forward: Forward, inputs: Inputs) -> Tensor:
    """Of each sequence (sequences,): the log-probabilities of the tokens that count, summed, in float32."""
    tokens = inputs["answer_tokens"]
    places = counted(tokens)

    def read(hidden: Tensor, vocabulary: Vocabulary) -> Tensor:
        losses = vocabulary.cross_entropy(hidden[:, :-1][places], tokens[:, 1:][places], "none")
        # summed by row: adding by index would not be the same each time on a GPU
        return hidden.new_zeros(places.shape, dtype=losses.dtype).masked_scatter(places, -losses).sum(dim=1)

    found: Tensor = forward(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], reader=read
    )
    return found
