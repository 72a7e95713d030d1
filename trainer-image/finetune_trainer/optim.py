"""The optimizer over the trainable parameters. Called by `run`."""

from typing import TYPE_CHECKING

from finetune_api.run import FaultPlace
from finetune_api.training import OptimizerSpec
from finetune_trainer.errors import ConfigurationError

if TYPE_CHECKING:
    import torch


def decays(parameter: "torch.nn.Parameter") -> bool:
    """Whether weight decay applies: to matrices, not to biases and the weights of norms, which are vectors."""
    return parameter.ndim >= 2


def build_optimizer(model: "torch.nn.Module", spec: OptimizerSpec) -> "torch.optim.AdamW":
    """AdamW (Loshchilov & Hutter 2019), fused, with a group that decays and one that does not."""
    import torch

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ConfigurationError("model.freeze leaves nothing to train", FaultPlace(field="model.freeze"))
    groups = [
        {"params": [p for p in trainable if decays(p)], "weight_decay": spec.weight_decay},
        {"params": [p for p in trainable if not decays(p)], "weight_decay": 0.0},
    ]
    first, second = spec.betas
    return torch.optim.AdamW(
        groups, lr=spec.learning_rate, betas=(first, second), eps=spec.epsilon, fused=True
    )
