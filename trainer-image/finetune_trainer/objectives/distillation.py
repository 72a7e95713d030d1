"""What a student learns of other models' outputs (Hinton et al. 2015): their probabilities, or their numbers.

Torch is imported when a function is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune_trainer.objectives.base import IGNORED, Loss, Objective

if TYPE_CHECKING:
    from torch import Tensor


def taught(objective: Objective[Any], logits: Tensor, temperature: float) -> Tensor:
    """What a model's outputs (…, outputs) teach, in float64: probabilities at a temperature; numbers as they are."""
    values = logits.double()
    if objective.problem_type == "regression":
        return values
    values = values / temperature
    return values.sigmoid() if _several(objective) else values.softmax(-1)


def distilled(
    objective: Objective[Any],
    logits: Tensor,
    targets: Tensor,
    outputs: Tensor,
    temperature: float,
    alpha: float,
) -> Loss:
    """The loss of a student: `alpha` of it against `outputs`, shaped like its logits, the rest against the labels.

    Against probabilities it is their KL divergence from the student's at the same temperature, times its square, so
    that its gradients keep their size. One label of several counts by the class weight of the row's label, as its
    cross-entropy does. Against numbers, in the units of `targets`, it is the squared error.
    """
    labels = objective.loss(logits, targets)
    if objective.problem_type == "regression":
        soft = ((logits - outputs) ** 2).sum()
    else:
        soft = temperature**2 * _divergence(objective, logits / temperature, targets, outputs)
    total = alpha * soft + (1 - alpha) * labels.loss_sum if alpha < 1 else soft
    return Loss(total, labels.weight)


def _divergence(objective: Any, logits: Tensor, targets: Tensor, outputs: Tensor) -> Tensor:
    """Summed over rows, or over tokens with a label; with several labels a row, over each yes or no."""
    from torch.nn.functional import kl_div, logsigmoid

    if _several(objective):
        yes = kl_div(logsigmoid(logits), outputs, reduction="sum")
        return yes + kl_div(logsigmoid(-logits), 1 - outputs, reduction="sum")
    each = kl_div(logits.log_softmax(-1), outputs, reduction="none").sum(-1)
    counted = (targets != IGNORED).to(each.dtype)
    if objective.class_weights is not None:
        counted = counted * logits.new_tensor(objective.class_weights)[targets.clamp(min=0)]
    return (each * counted).sum()


def _several(objective: Objective[Any]) -> bool:
    return objective.problem_type == "multi_label_classification"
