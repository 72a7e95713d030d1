"""The optimizer and its parameter groups: weight decay and learning-rate multiplier.

A group has `scale`, by which `loop` multiplies the scheduled rate, and `name`, for people."""

from typing import Any

import torch
from torch.distributed.tensor import DTensor

from finetune_api.run import FaultPlace
from finetune_api.status import ParameterGroupStatus
from finetune_api.training import OptimizerName, OptimizerSpec
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.layers.find import embeddings_of, is_norm, layers_of

Group = dict[str, Any]


def build_optimizer(
    model: Any, spec: OptimizerSpec, layer_decay: float | None = None, later: set[Any] | None = None
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or SGD, fused, over what is trained now and what is unfrozen `later`.

    Raises ConfigurationError when nothing is.
    """
    groups = parameter_groups(model, spec.weight_decay, layer_decay, later or set())
    if not groups:
        raise ConfigurationError(
            "model.freeze freezes all parameters; freeze less", FaultPlace(field="model.freeze")
        )
    if spec.name is OptimizerName.SGD:
        # torch has no fused SGD for divided parameters
        whole = not any(isinstance(parameter, DTensor) for group in groups for parameter in group["params"])
        return torch.optim.SGD(groups, lr=spec.learning_rate, momentum=spec.momentum, fused=whole)
    first, second = spec.betas
    return torch.optim.AdamW(
        groups, lr=spec.learning_rate, betas=(first, second), eps=spec.epsilon, fused=True
    )


def parameter_groups(
    model: Any, weight_decay: float, layer_decay: float | None, later: set[Any]
) -> list[Group]:
    """One group for every depth and kind, in the model's order; a group without decay has weight_decay 0.

    With tensor parallelism a group for every way of dividing, as the optimizer takes no two in one call.
    """
    vectors, depths = no_decay_parameters(model), depths_of(model) if layer_decay else {}
    groups: dict[tuple[int, bool, object], Group] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter not in later:
            continue
        depth, decays = depths.get(parameter, 0), parameter not in vectors
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        start: Group = {
            "params": [],
            "weight_decay": weight_decay if decays else 0.0,
            "scale": (layer_decay or 1.0) ** depth,
            "name": f"depth {depth}, {'decay' if decays else 'no decay'}",
        }
        groups.setdefault((depth, decays, mesh), start)["params"].append(parameter)
    return list(groups.values())


def no_decay_parameters(model: torch.nn.Module) -> set[Any]:
    """Biases, and the weights of norms of any shape; matrices decay, those of the embeddings too."""
    norms = [module for module in model.modules() if is_norm(module)]
    return {parameter for parameter in model.parameters() if parameter.ndim < 2} | {
        parameter for norm in norms for parameter in norm.parameters(recurse=False)
    }


def depths_of(model: Any) -> dict[Any, int]:
    """Layers between a parameter and the head: 1 for the top layer, one more than all layers for the embeddings.

    What the body has behind its layers, such as a pooler or a last norm, counts as the head: 0.
    """
    layers = layers_of(model)
    inside = {
        parameter: len(layers) - number
        for number, layer in enumerate(layers)
        for parameter in layer.parameters()
    }
    below: dict[Any, int] = {}
    for parameter in model.base_model.parameters():
        if parameter in inside:
            break
        below[parameter] = len(layers) + 1
    for module in embeddings_of(model):
        below |= dict.fromkeys(module.parameters(), len(layers) + 1)
    return below | inside


def groups_of(optimizer: torch.optim.Optimizer) -> list[ParameterGroupStatus]:
    """The groups for the report: how many parameters decay, and how many do not, at which rates."""
    counted: dict[str, ParameterGroupStatus] = {}
    for group in optimizer.param_groups:
        before = counted.get(group["name"])
        own = sum(parameter.numel() for parameter in group["params"])
        counted[group["name"]] = ParameterGroupStatus(
            name=group["name"],
            parameters=own + (before.parameters if before else 0),
            weight_decay=group["weight_decay"],
            scale=float(f"{group['scale']:.4g}"),
        )
    return list(counted.values())


def format_groups(groups: list[ParameterGroupStatus]) -> str:
    """The groups for the log."""
    return "; ".join(
        f"{group.name}: {group.parameters:,} parameters, weight decay {group.weight_decay:g},"
        f" learning rate × {group.scale:.4g}"
        for group in groups
    )
