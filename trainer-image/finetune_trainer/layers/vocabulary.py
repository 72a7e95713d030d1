"""The last layer of a language model, computed for a few positions at a time, and only where something is predicted.

Scores of a vocabulary of 50,000 for all positions of a batch take more memory than the rest of the model. So no model
returns them: `separate` makes it hand its hidden states and its last layer to a reader, within its own forward pass,
where a sharded model has its weights together.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from finetune_trainer.layers.frozen import FrozenLinear
from finetune_trainer.layers.probes import REFUSALS, describe, example, outputs

POSITIONS = 256
"""Scored at once: enough for full matrix products, and 50 MiB at a vocabulary of 50,000."""
IN_PARTS = nn.LinearCrossEntropyOptions(batch_chunk_size=POSITIONS, chunking_method=None)


@dataclass(frozen=True)
class Vocabulary:
    """From hidden states (positions, size) to scores of every token: the last layer, then what the model does to it."""

    layer: nn.Module
    scale: float = 1.0
    """Scores are multiplied by it (Granite, Cohere)."""
    cap: float | None = None
    """Scores are pressed between -cap and cap by tanh (Gemma)."""

    def scores(self, hidden: Tensor) -> Tensor:
        """(positions, tokens) in float32."""
        return self._finished(self.layer(hidden))

    def cross_entropy(self, hidden: Tensor, tokens: Tensor, reduction: Literal["sum", "none"]) -> Tensor:
        """Of the tokens (positions,), in float32, with gradients; scores are computed again in the backward pass.

        torch computes the gradient of the sum along the way, but returns bfloat16 where that is computed in.
        """
        layer = self._linear()
        exact = hidden.dtype is torch.float32 and not torch.is_autocast_enabled(hidden.device.type)
        frozen = isinstance(layer, FrozenLinear)
        if (
            layer is not None
            and self.cap is None
            and exact
            and (frozen or layer.weight.dtype is torch.float32)
        ):
            return functional.linear_cross_entropy(
                hidden * self.scale if self.scale != 1 else hidden,
                layer.weight.float(),
                tokens,
                linear_bias=None if layer.bias is None else layer.bias * self.scale,
                reduction=reduction,
                options=IN_PARTS,
            )
        score = self.scores if layer is None else self._cast_once(layer, hidden)

        def losses(part: Tensor, expected: Tensor) -> Tensor:
            return functional.cross_entropy(score(part), expected, reduction="none")

        found = torch.cat([checkpoint(losses, *part, use_reentrant=False) for part in _parts(hidden, tokens)])
        return found.sum() if reduction == "sum" else found

    def judged(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """(positions, 2): the log-probability of each token, and whether it has the highest score, without gradients.

        The second is NaN where a score is NaN or infinite.
        """
        return torch.cat([self._judged(*part) for part in _parts(hidden, tokens)])

    def _judged(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        scores = self.scores(hidden)
        right = (scores.argmax(dim=-1) == tokens).float()
        right[~scores.isfinite().all(dim=-1)] = torch.nan
        return torch.stack([-functional.cross_entropy(scores, tokens, reduction="none"), right], dim=-1)

    def _finished(self, scores: Tensor) -> Tensor:
        scores = scores.float() * self.scale if self.scale != 1 else scores.float()
        return scores if self.cap is None else self.cap * torch.tanh(scores / self.cap)

    def _linear(self) -> nn.Linear | None:
        """The layer where its weights are all that matters: it has no adapter, no hook, no shards."""
        layer = self.layer
        if (
            not isinstance(layer, nn.Linear)
            or type(layer) not in (nn.Linear, FrozenLinear)
            or layer._forward_hooks
        ):
            return None
        return layer if type(layer.weight) is nn.Parameter else None

    def _cast_once(self, layer: nn.Linear, hidden: Tensor) -> Callable[[Tensor], Tensor]:
        """As `scores`; autocast would convert the weights for every part again."""
        kind, own = hidden.device.type, hidden if isinstance(layer, FrozenLinear) else layer.weight
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else own.dtype
        weight, bias = (each if each is None else each.to(dtype) for each in (layer.weight, layer.bias))
        return lambda part: self._finished(functional.linear(part.to(dtype), weight, bias))


def _parts(hidden: Tensor, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(hidden, POSITIONS), torch.split(tokens, POSITIONS), strict=True)


Reader = Callable[[Tensor, Vocabulary], Tensor]
"""What is wanted of hidden states (rows, longest, size) and the last layer."""


def separate(model: Any) -> str | None:
    """Make `model(**inputs, reader=…)` return what the reader does; without a reader it is called as before.

    Returns why this model computes the scores of all positions all the same, as the end of a sentence; None if it does
    not.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    whole, reason = inner.forward, _why_whole(model, inner)
    options = {"use_cache": False} if "use_cache" in inspect.signature(whole).parameters else {}

    def forward(*args: Any, reader: Reader | None = None, **inputs: Any) -> Any:
        if reader is None:
            return whole(*args, **inputs)
        inputs = {name: value for name, value in inputs.items() if value is not None}
        if reason is not None:
            return reader(whole(*args, **inputs).logits, Vocabulary(nn.Identity()))
        hidden = inner.base_model(*args, **inputs, **options).last_hidden_state
        return reader(hidden, _vocabulary(inner))

    inner.forward = forward
    return reason


def _vocabulary(inner: Any) -> Vocabulary:
    config = inner.config.get_text_config()
    multiplier, divisor = (getattr(config, name, None) or 1.0 for name in ("logit_scale", "logits_scaling"))
    return Vocabulary(
        inner.get_output_embeddings(), multiplier / divisor, getattr(config, "final_logit_softcapping", None)
    )


def _why_whole(model: Any, inner: Any) -> str | None:
    """Tried out with a few tokens: architectures may do more between their body and their scores."""
    name = type(inner).__name__
    if inner.get_output_embeddings() is None:
        return f"{name} names no last layer"
    inputs = example()
    scores = outputs(model, **inputs).logits
    try:
        hidden = outputs(inner.base_model, **inputs).last_hidden_state
        with torch.no_grad():
            found = _vocabulary(inner).scores(hidden)
    except REFUSALS as error:
        return f"the body of {name} cannot be computed alone ({describe(error)})"
    if found.shape != scores.shape or not torch.allclose(
        found, scores.float(), rtol=1e-4, atol=1e-5 * float(scores.abs().max())
    ):
        return f"{name} does more with its hidden states than multiply them with its last layer"
    return None
