"""What a model learns.

A new objective is a file here, a member of `ObjectiveSpec` and a line in OBJECTIVES.
"""

from typing import Any

from finetune_trainer.objectives.base import Loss, Meter, Objective
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.preference import Preference
from finetune_trainer.objectives.regression import Regression
from finetune_trainer.objectives.token_classification import TokenClassification

OBJECTIVES: dict[str, type[Objective[Any]]] = {
    "classification": Classification,
    "regression": Regression,
    "token_classification": TokenClassification,
    "causal_lm": CausalLM,
    "preference": Preference,
}
__all__ = ["OBJECTIVES", "Loss", "Meter", "Objective"]
