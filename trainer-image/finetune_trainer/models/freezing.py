"""Which parameters are trained, and from which step."""

from typing import Any

from finetune_api.model import FreezeSpec, UnfreezeInterval
from finetune_api.run import FaultPlace
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.layers.find import embeddings_of, layers_of


def freeze(model: Any, spec: FreezeSpec) -> None:
    """Switch off the gradients of the embeddings and of the first layers, as they are before the first step.

    Raises ConfigurationError when the model has fewer layers.
    """
    layers = layers_of(model)
    if spec.layers > len(layers):
        raise ConfigurationError(
            f"model.freeze.layers is {spec.layers}, but the model has only {len(layers)} layers; lower it",
            FaultPlace(field="model.freeze.layers"),
        )
    apply_unfreezing(model, spec, 0, 1)
    if spec.embeddings:
        for module in embeddings_of(model):
            module.requires_grad_(requires_grad=False)


def frozen_layers(spec: FreezeSpec, step: int, steps_per_epoch: int) -> int:
    """How many layers, counted from the input, are frozen in optimizer step number `step`, counted from 0."""
    if spec.unfreeze_every is None:
        return spec.layers
    return max(0, spec.layers - step // _interval(spec.unfreeze_every, steps_per_epoch))


def apply_unfreezing(model: Any, spec: FreezeSpec, step: int, steps_per_epoch: int) -> bool:
    """Set what is trained in this step; True if that changed.

    Gradual unfreezing (Howard & Ruder 2018): a pure function of the step, so that a resumed run needs nothing saved.
    """
    frozen = frozen_layers(spec, step, steps_per_epoch)
    changed = False
    for number, layer in enumerate(layers_of(model)[: spec.layers]):
        for parameter in layer.parameters():
            changed |= parameter.requires_grad != (number >= frozen)
            parameter.requires_grad_(number >= frozen)
    return changed


def unfrozen_later(model: Any, spec: FreezeSpec | None) -> set[Any]:
    """Parameters that are frozen at first and unfrozen later: the optimizer has to know them from the start."""
    if spec is None or spec.unfreeze_every is None:
        return set()
    return {parameter for layer in layers_of(model)[: spec.layers] for parameter in layer.parameters()}


def trained_parameters(model: Any) -> int:
    """Number of parameters that are trained now."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _interval(every: UnfreezeInterval, steps_per_epoch: int) -> int:
    return every.steps or (every.epochs or 1) * steps_per_epoch
