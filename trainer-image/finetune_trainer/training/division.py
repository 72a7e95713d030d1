"""Whether a model that tensor groups divide still computes what it did whole: tried out before the first step.

A plan that does not fit an architecture would else train a wrong model without a sign of it."""

import warnings
from typing import Any

import torch
from torch import Tensor

from finetune_api.run import FaultPlace
from finetune_trainer.distributed import TENSOR, Ranks, local
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.layers.probes import REFUSALS, describe, example, outputs
from finetune_trainer.models.tensor_plan import FIELD

TOLERANCE = 0.05
"""Of the largest number: devices and number formats differ, and a layer put together wrongly is far beyond it."""


def scores_of(model: Any, device: torch.device) -> Tensor:
    """What a model returns for a tiny text, in evaluation."""
    found: Tensor = outputs(model, **_inputs(device)).logits
    return found.float().cpu()


def check_division(model: Any, whole: Tensor, ranks: Ranks, device: torch.device, name: str) -> None:
    """Raise ConfigurationError if the divided model returns other scores than the `whole` one did.

    And if the ranks of a tensor group find different gradients for weights that all of them have.
    """
    reason, gradients = "", dict[str, float]()
    try:
        if not _alike(whole, scores_of(model, device)):
            reason = "its scores are others than those of the whole model"
        gradients = _gradients(model, device)
    except REFUSALS as error:
        reason = describe(error)
    everyones = ranks.all_gather((reason, gradients))
    reason = next((each for each, _ in everyones if each), "") or _unequal(everyones, ranks.tensor)
    if reason:
        raise ConfigurationError(
            f"{FIELD}: {name} does not compute the same when it is divided: {reason}; remove {FIELD}, and set"
            " training.sharding: Full for a model that is larger than one GPU",
            FaultPlace(field=FIELD),
        )


def _unequal(found: list[tuple[str, dict[str, float]]], size: int) -> str:
    """What differs between the ranks of a tensor group, as the end of a sentence; empty if nothing does."""
    for rank, (_, own) in enumerate(found):
        first = found[rank - rank % size][1]
        least = TOLERANCE**3 * max(first.values(), default=0.0)
        for name, norm in first.items():
            if abs(norm - own[name]) > TOLERANCE * norm + least:
                return f"the gradient of {name} is another one on rank {rank} than on the first of its group"
    return ""


def _gradients(model: Any, device: torch.device) -> dict[str, float]:
    """Norms of the gradients, by the scores of a tiny text, of weights that every rank of a tensor group has."""
    training = model.training
    model.eval()
    try:
        with warnings.catch_warnings():  # of operations in place, of which there are none here
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
            scores = model(**_inputs(device)).logits.float()
        (scores * torch.linspace(-1, 1, scores.shape[-1], device=device)).sum().backward()
        return {
            name: float(local(value.grad).norm())
            for name, value in model.named_parameters()
            if value.grad is not None and not _divided(value)
        }
    finally:
        model.train(training)
        model.zero_grad(set_to_none=True)


def _divided(parameter: Any) -> bool:
    """Whether tensor groups have parts of it, or sum its gradient later."""
    return TENSOR in (getattr(getattr(parameter, "device_mesh", None), "mesh_dim_names", None) or ())


def _inputs(device: torch.device) -> dict[str, Tensor]:
    return {each: tensor.to(device) for each, tensor in example().items()}


def _alike(left: Tensor, right: Tensor) -> bool:
    return bool(torch.allclose(left, right, rtol=TOLERANCE, atol=TOLERANCE * float(left.abs().max())))
