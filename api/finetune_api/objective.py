"""`spec.objective`: what the model learns. A new objective is a class here and one member of `ObjectiveSpec`."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from finetune_api.base import ApiModel, OneOf, Rule, Unique
from finetune_api.dataset import Packing

Label = Annotated[str, Field(min_length=1, max_length=128)]


class ClassWeights(StrEnum):
    """How much each class counts in the loss."""

    NONE = "None"
    BALANCED = "Balanced"


class RegressionLoss(StrEnum):
    """How an error counts."""

    SQUARED = "Squared"
    HUBER = "Huber"


def _labels_keep_their_order() -> Rule:
    return Rule(
        # sets are equal in any order, so the rule on spec.objective lets a new order pass; map() makes lists of them
        "!has(self.labels) || !has(oldSelf.labels) || self.labels.map(l, l) == oldSelf.labels.map(l, l)",
        "the order of labels gives their ids and cannot be changed after creation; create a new FineTuneJob under"
        " another name",
    )


Labels = Annotated[list[Label], Field(min_length=2, max_length=1000), Unique()]


class ClassificationSpec(ApiModel):
    """One label for every text, or with multiLabel any number of them; cross-entropy."""

    rules = (
        _labels_keep_their_order(),
        Rule(
            "!self.multiLabel || self.labelSmoothing == 0.0",
            "labelSmoothing spreads the probability of one label; remove it, or multiLabel",
            lambda s: not s.multi_label or s.label_smoothing == 0,
            ".labelSmoothing",
        ),
    )
    labels: Labels | None = None
    """The labels in the order of their ids, for example [neg, pos]. A row with another label is refused. Default: the labels found in the training data, sorted."""
    class_weights: ClassWeights = ClassWeights.NONE
    """Balanced weighs every class by the inverse of its frequency (as scikit-learn does); with multiLabel, the texts with a label by (texts without it) / (texts with it)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target probability that is spread over all labels (Szegedy et al. 2016), for example 0.1."""
    multi_label: bool = False
    """Every text has any number of labels, given as a list: each label is a yes or no of its own (binary cross-entropy)."""


class RegressionSpec(ApiModel):
    """One number for every text, or several."""

    targets: Annotated[int, Field(ge=1, le=1000)] = 1
    """How many numbers belong to every text. With 2 or more the label column holds a list of them."""
    loss: RegressionLoss = RegressionLoss.SQUARED
    """Squared is the mean squared error; Huber (1964) is squared up to 1 and linear beyond, so that outliers count less."""
    normalize: bool = False
    """Learn targets of mean 0 and deviation 1, as counted on the training rows. Losses are in that unit; metrics and the predictions of the recorded model are in the original one. Needs a last layer with a bias: GPT-2 and Llama have none, model.head has."""


class TokenClassificationSpec(ApiModel):
    """One label for every word; cross-entropy over the first token of each word."""

    rules = (_labels_keep_their_order(),)
    labels: Labels | None = None
    """The labels in the order of their ids, for example [O, B-PER, I-PER]. Default: the labels found in the training data, sorted."""
    class_weights: ClassWeights = ClassWeights.NONE
    """Balanced weighs every class by the inverse of its frequency."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target probability that is spread over all labels, for example 0.1."""


class CausalLMSpec(ApiModel):
    """The next token of a text."""

    mask_prompt: bool = True
    """Learn the text alone and not the prompt before it (dataset.columns.prompt)."""


class ObjectiveSpec(OneOf):
    """What the model learns: exactly one of the members."""

    classification: ClassificationSpec | None = None
    """One label for every text, or several; cross-entropy. For example {labels: [neg, pos]}, or {} to take the labels from the data."""
    regression: RegressionSpec | None = None
    """One number for every text, or several; mean squared error. Written as {} for one."""
    token_classification: TokenClassificationSpec | None = None
    """One label for every word of a text. Written as {} to take the labels from the data."""
    causal_lm: Annotated[CausalLMSpec | None, Field(alias="causalLM")] = None
    """The next token of a text: language modelling and instruction tuning. Written as {}."""

    @property
    def kind(self) -> str:
        """The name of the member that is set."""
        (name,) = self.chosen
        return name


def only_for(objective: str, field: str, cel: str, chosen: Callable[[Any], bool], message: str) -> Rule:
    """A choice that has a meaning for one objective alone; `cel` and `chosen` tell whether it was made."""
    alias = ObjectiveSpec.model_fields[objective].alias
    return Rule(
        f"!has(self.objective) || has(self.objective.{alias}) || !has(self.dataset) || !({cel})",
        message,
        lambda s: (
            s.objective is None or s.objective.kind == objective or s.dataset is None or not chosen(s.dataset)
        ),
        field,
    )


def only_for_causal_lm(root: str = "") -> tuple[Rule, ...]:
    """What of a dataset has a meaning for next tokens alone; `root` stands before the fields in messages."""
    return (
        only_for(
            "causal_lm",
            ".dataset.columns.prompt",
            "has(self.dataset.columns) && has(self.dataset.columns.prompt)",
            lambda dataset: dataset.columns.prompt is not None,
            f"{root}dataset.columns.prompt is for objective.causalLM; for a second text use columns.textPair",
        ),
        only_for(
            "causal_lm",
            ".dataset.preprocessing.packing",
            "has(self.dataset.preprocessing) && has(self.dataset.preprocessing.packing)"
            " && self.dataset.preprocessing.packing == 'Always'",
            lambda dataset: dataset.preprocessing.packing is Packing.ALWAYS,
            f"{root}dataset.preprocessing.packing is for objective.causalLM; remove it",
        ),
    )
