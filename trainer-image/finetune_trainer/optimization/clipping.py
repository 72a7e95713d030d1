"""Bounds the gradient of a step."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from finetune_api.training import GradientClippingSpec
from finetune_trainer.distributed import full_tensor, local

NORM_EPSILON = 1e-6
"""In torch's clip_grad_norm_, which this has to equal."""


@dataclass(frozen=True)
class Norms:
    """L2 norms of a gradient over all parameters."""

    before: float
    after: float
    """Equal to `before` where nothing was clipped."""
    clipped: bool


def scale_and_clip(
    parameters: list[torch.nn.Parameter], scale: float, spec: GradientClippingSpec | None
) -> Norms:
    """Multiply the gradient by `scale` and bound it.

    By norm as torch's clip_grad_norm_, in one pass over the gradient for both. By value the gradient is read twice
    more: whether it was clipped, and to which norm, cannot be known from the norm before.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = scale * _total_norm(gradients)
    norm = after = float(total)
    clipped = bool(spec and spec.max_norm and norm > spec.max_norm)
    if spec and spec.max_norm:
        factor = float(torch.clamp(spec.max_norm / (total + NORM_EPSILON), max=1.0))
        scale, after = scale * factor, norm * factor
    for gradient in gradients:
        gradient.mul_(scale)
    if spec and spec.max_value is not None:
        clipped = float(_total_norm(gradients, float("inf"))) > spec.max_value
        for gradient in gradients:
            local(gradient).clamp_(-spec.max_value, spec.max_value)
        after = float(_total_norm(gradients)) if clipped else norm
    return Norms(norm, after, clipped)


def _total_norm(gradients: list[Tensor], order: float = 2.0) -> Tensor:
    """Of all gradients together; a divided one counts once, by parts, a whole one as it is on every rank.

    torch computes the norm of gradients that are divided in the same way.
    """
    alike: dict[object, list[Tensor]] = {}
    for gradient in gradients:
        alike.setdefault(gradient.device_mesh if isinstance(gradient, DTensor) else None, []).append(gradient)
    norms = [full_tensor(get_total_norm(group, order)) for group in alike.values()]
    if len(norms) == 1:
        return norms[0]
    total: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]), order)
    return total
