"""`spec.objective`: what the model learns. A new objective is a class here and one member of `ObjectiveSpec`."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import ApiModel, OneOf, Rule, Unique

Label = Annotated[str, Field(min_length=1, max_length=128)]


class ClassWeights(StrEnum):
    """How much each class counts in the loss."""

    NONE = "None"
    BALANCED = "Balanced"


class ClassificationSpec(ApiModel):
    """One label for every text; cross-entropy."""

    rules = (
        Rule(
            # sets are equal in any order, so the rule on spec.objective lets a new order pass; map() makes lists of them
            "!has(self.labels) || !has(oldSelf.labels) || self.labels.map(l, l) == oldSelf.labels.map(l, l)",
            "the order of labels gives their ids and cannot be changed after creation; create a new FineTuneJob under"
            " another name",
        ),
    )
    labels: Annotated[list[Label], Field(min_length=2, max_length=1000), Unique()] | None = None
    """The labels in the order of their ids, for example [neg, pos]. A row with another label is refused. Default: the labels found in the training data, sorted."""
    class_weights: ClassWeights = ClassWeights.NONE
    """Balanced weighs every class by the inverse of its frequency (as scikit-learn does)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target probability that is spread over all labels (Szegedy et al. 2016), for example 0.1."""


class RegressionSpec(ApiModel):
    """One number for every text; mean squared error."""


class ObjectiveSpec(OneOf):
    """What the model learns: exactly one of the members."""

    classification: ClassificationSpec | None = None
    """One label for every text; cross-entropy. For example {labels: [neg, pos]}, or {} to take the labels from the data."""
    regression: RegressionSpec | None = None
    """One number for every text; mean squared error. Written as {}."""

    @property
    def kind(self) -> str:
        """The name of the member that is set."""
        (name,) = self.chosen
        return name
