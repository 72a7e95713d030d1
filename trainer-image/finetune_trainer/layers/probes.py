"""Tests what a model can do, with a few tokens, before it leaves the CPU.

Configurations do not say: transformers has hundreds of architectures, with new ones every month.
"""

from collections.abc import Callable
from typing import Any

import torch

from finetune_trainer.layers.masks import block_causal
from finetune_trainer.layers.varlen import BOUNDS

TOKENS = 3
"""Of a tiny text; ids from 1 on, which every vocabulary has."""
REFUSALS = (ValueError, RuntimeError, TypeError, IndexError)
"""By which models answer what they were not made for."""


def sees_what_follows(model: Any) -> bool:
    """Whether another last token changes the outputs of the first."""
    ids = torch.tensor([[1, 2, 3], [1, 2, 4]])
    first = _logits(model, input_ids=ids, attention_mask=torch.ones_like(ids))[:, 0]
    return not torch.allclose(first[0], first[1], atol=1e-4)


def why_not_packed(model: Any, longest: int) -> str | None:
    """Why texts of up to `longest` tokens cannot share a sequence in this model; None if they can.

    Layers with convolutions, recurrent states or a bias by distance ignore the mask and the positions that separate
    packed texts; a model with an attention window loses it.
    """
    name, config = type(model).__name__, model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    if window is not None and window < longest:
        return f"{name} of this model looks back {window} tokens, and texts may have {longest}"
    first, second = torch.arange(1, 1 + TOKENS), torch.arange(2, 3 + TOKENS)
    documents = torch.cat([torch.zeros_like(first), torch.ones_like(second)])[None]
    positions = torch.cat([torch.arange(len(first)), torch.arange(len(second))])[None]
    try:
        alone = _logits(model, input_ids=second[None], attention_mask=torch.ones_like(second[None]))
        together = _logits(
            model,
            input_ids=torch.cat([first, second])[None],
            position_ids=positions,
            attention_mask=torch.from_numpy(block_causal(documents.numpy())),
        )[:, len(first) :]
    except REFUSALS as error:
        return f"{name} does not take them ({describe(error)})"
    if not torch.allclose(alone, together, rtol=1e-3, atol=1e-4 * float(alone.abs().max())):
        return f"{name} does not keep them apart"
    return None


def why_not_varlen(model: Any, forward: Callable[..., Any], device: torch.device) -> str | None:
    """Why texts cannot be kept apart by their bounds alone, in a model with varlen attention; None if they can.

    Called with everything in place: the kernels depend on device, number format and the size of heads.
    """
    first, second = torch.arange(1, 1 + TOKENS), torch.arange(2, 3 + TOKENS)
    positions = torch.cat([torch.arange(len(first)), torch.arange(len(second))])

    def together(before: torch.Tensor) -> dict[str, torch.Tensor]:
        ids = torch.cat([before, second])[None]
        bounds = torch.tensor([0, TOKENS, ids.shape[1]], dtype=torch.int32)
        inputs = {"input_ids": ids, "position_ids": positions[None], "attention_mask": torch.ones_like(ids)}
        return {name: tensor.to(device) for name, tensor in (inputs | {BOUNDS: bounds}).items()}

    training = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            model.train()
            forward(**together(first))  # refused with dropout in attention
            model.eval()
            ids = second[None].to(device)
            alone = forward(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            packed, after_others = (
                forward(**together(before)).logits[:, TOKENS:] for before in (first, first.flip(0))
            )
    except REFUSALS as error:
        return describe(error)
    finally:
        model.train(training)
    if not torch.equal(packed, after_others):
        return f"{type(model).__name__} does not keep them apart"
    if not torch.allclose(alone, packed, rtol=0.02, atol=0.02 * float(alone.abs().max())):
        return f"{type(model).__name__} computes them otherwise"
    return None


def why_not_headed(model: Any) -> str | None:
    """Why this encoder cannot have a custom head; None if it can."""
    try:
        _logits(model, **example())
    except REFUSALS as error:
        return describe(error)
    return None


def why_not_bfloat16(model: Any) -> str | None:
    """Why a model cannot run in bfloat16 on the CPU; None if it can."""
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            try:
                logits = _logits(model, **example())
            except REFUSALS as error:  # some take only texts with their own last token, in any format
                return describe(error) if enabled else None
            if not logits.isfinite().all():
                return "its outputs are NaN or infinite" if enabled else None
    return None


def _logits(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = outputs(model, **inputs).logits
    return logits


def outputs(model: Any, **inputs: torch.Tensor) -> Any:
    """What a model returns in evaluation, without gradients; its mode is left as it is."""
    training = model.training
    try:
        with torch.no_grad():
            return model.eval()(**inputs)
    finally:
        model.train(training)


def example() -> dict[str, torch.Tensor]:
    """The inputs of a tiny text."""
    ids = torch.arange(1, 1 + TOKENS)[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def describe(error: Exception) -> str:
    """The first line of an error, with its kind."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]
