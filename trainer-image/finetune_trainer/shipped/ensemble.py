"""Several models that answer as one. A copy of this file lies in every ensemble's folder:

    from ensemble import load
    model, tokenizer = load(".")  # the folder with ensemble.json

So it uses torch and transformers only.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput, SequenceClassifierOutput

MANIFEST, MEMBERS = "ensemble.json", "members"
AUTO_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
}
LEAST = 1e-12
"""Probabilities are kept this far from 0 and 1, where their logarithm is not finite."""


def average_probabilities(logits: Tensor, multi_label: bool) -> Tensor:
    """Members' logits (members, …, labels) to those of their mean probability.

    With `multi_label` each label is a yes or no.
    """
    probabilities = _mean_probabilities(logits, multi_label).clamp(LEAST, 1 - LEAST)
    return probabilities.logit() if multi_label else probabilities.log()


def vote(logits: Tensor, multi_label: bool) -> Tensor:
    """The label with the most votes, or with `multi_label` all that have half of the votes; ties go by probability.

    With `multi_label` it is positive for each label that is given. These numbers decide; they are no probabilities.
    """
    mean = _mean_probabilities(logits, multi_label)
    if multi_label:
        return (2.0 * (logits >= 0).double() - 1).sum(0) + (mean - 0.5)
    return nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double().sum(0) + 0.5 * mean


def average_predictions(values: Tensor, multi_label: bool) -> Tensor:
    """The mean of numbers (members, rows, targets)."""
    del multi_label
    return values.double().mean(0)


RULES: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "AverageProbabilities": average_probabilities,
    "Vote": vote,
    "AveragePredictions": average_predictions,
}


def _mean_probabilities(logits: Tensor, multi_label: bool) -> Tensor:
    exact = logits.double()
    return (exact.sigmoid() if multi_label else exact.softmax(-1)).mean(0)


class Ensemble(nn.Module):
    """Answers `.logits` as its members do; all of them are in memory."""

    def __init__(self, members: list[Any], rule: str) -> None:
        super().__init__()
        self.members, self.rule = nn.ModuleList(members), rule

    @property
    def config(self) -> Any:
        """That of the first member: all have the same labels."""
        return self.members[0].config

    def forward(self, **inputs: Tensor) -> ModelOutput:
        """What the members were given."""
        logits = torch.stack([member(**inputs).logits.float() for member in self.members])
        multi_label = self.config.problem_type == "multi_label_classification"
        return SequenceClassifierOutput(logits=RULES[self.rule](logits, multi_label).float())


def load(folder: str) -> tuple[Ensemble, Any]:
    """The ensemble, ready to predict, and the tokenizer of its members."""
    from transformers import AutoTokenizer

    path = Path(folder)
    manifest = json.loads((path / MANIFEST).read_text())
    folders = [path / member["folder"] for member in manifest["members"]]
    members = [_member(each, manifest["objective"]) for each in folders]
    return Ensemble(members, manifest["combine"]).eval(), AutoTokenizer.from_pretrained(folders[0])


def _member(folder: Path, objective: str) -> Any:
    import transformers

    if (folder / "custom_head.json").exists():
        from custom_head import load as load_headed  # type: ignore[import-not-found] # a file beside this one

        return load_headed(str(folder))[0]
    return getattr(transformers, AUTO_CLASSES[objective]).from_pretrained(folder, dtype=torch.float32)
