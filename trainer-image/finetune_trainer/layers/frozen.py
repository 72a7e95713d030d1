"""Layers with frozen weights in fewer bits than they are computed in.

What is multiplied is made of the stored weights for each pass, forward and backward, and not kept between the two: a
float32 copy of all weights would else wait for the backward pass.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

Scales = dict[str, Tensor]
BLOCK, NESTED_BLOCK = 64, 256
"""Numbers that share a scale, and scales that share another one (Dettmers et al. 2023)."""
PART = 2**12
"""Blocks that are quantized at once."""


class _Product(torch.autograd.Function):
    """`linear` by a frozen matrix, of which only the way to make it is kept."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, made: Callable[[torch.dtype], Tensor], bias: Tensor | None
    ) -> Tensor:
        ctx.made = made
        return functional.linear(inputs, made(inputs.dtype), bias if bias is None else bias.to(inputs.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ ctx.made(gradient.dtype), None, None


def _linear(inputs: Tensor, made: Callable[[torch.dtype], Tensor], bias: Tensor | None) -> Tensor:
    """In the number format of autocast, else in that of the inputs."""
    kind = inputs.device.type
    if torch.is_autocast_enabled(kind):
        inputs = inputs.to(torch.get_autocast_dtype(kind))
    found: Tensor = _Product.apply(inputs, made, bias)
    return found


class Frozen(nn.Module):
    """What the layers with frozen weights have in common."""

    compute_dtype = torch.float32
    """By which peft makes the matrices of an adapter."""
    origin: str
    """The layer's name in the model of its checkpoint."""
    plain: type[nn.Module]
    """What the layer is with weights of float32."""
    weight: Any


class FrozenLinear(Frozen, nn.Linear):
    """A linear layer with weights of 16 bits."""

    plain = nn.Linear

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """(outputs, inputs)."""
        found: Tensor = self.weight.to(dtype)
        return found

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Rows (…, inputs) to (…, outputs)."""
        return _linear(input, self.matrix, self.bias)


class FrozenConv1D(Frozen, Conv1D):  # type: ignore[misc]
    """The linear layer of GPT-2, whose matrix is transposed, with weights of 16 bits."""

    plain = Conv1D
    bias: nn.Parameter

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """(outputs, inputs)."""
        found: Tensor = self.weight.to(dtype).t()
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Rows (…, inputs) to (…, outputs)."""
        return _linear(x, self.matrix, self.bias)


class FrozenEmbedding(Frozen, nn.Embedding):
    """A table of 16 bits whose rows are looked up in float32."""

    plain = nn.Embedding

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Ids to rows."""
        return super().forward(input).float()


class Nf4Linear(Frozen, nn.Linear):
    """A linear layer with weights in NF4 of bitsandbytes: 4 bits, with scales of 8 bits for blocks of 64 (QLoRA)."""

    plain = nn.Linear

    absmax: Tensor
    offset: Tensor
    nested_absmax: Tensor
    nested_code: Tensor

    @property
    def numbers(self) -> int:
        """How many it has."""
        return self.out_features * self.in_features

    def scaled(self, scales: Scales) -> None:
        """Give it the scales that belong to its packed weights."""
        for name, part in scales.items():
            self.register_buffer(name, part, persistent=False)

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """(outputs, inputs)."""
        from bitsandbytes import functional as packing

        state_of: Any = packing.QuantState
        nested = state_of(
            self.nested_absmax, code=self.nested_code, blocksize=NESTED_BLOCK, dtype=torch.float32
        )
        shape = torch.Size((len(self.absmax), BLOCK))
        state = state_of(
            self.absmax,
            shape=shape,
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=dtype,
            offset=self.offset,
            state2=nested,
        )
        found: Tensor = packing.dequantize_4bit(self.weight, state).view(-1)[: self.numbers]
        return found.view(self.out_features, self.in_features)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Rows (…, inputs) to (…, outputs)."""
        return _linear(input, self.matrix, self.bias)


def packed(weight: Tensor) -> tuple[nn.Parameter, Scales]:
    """A matrix in NF4, and its scales; on the meta device only their sizes.

    A block a row, whatever the shape: on a CPU bitsandbytes 0.50 reads the wrong scales of rows that are no multiple of
    a block. Part by part: quantization needs several times the float32 size of what it is given.
    """
    from bitsandbytes import functional as packing

    blocks = -(-weight.numel() // BLOCK)
    bits = torch.empty(blocks * BLOCK // 2, 1, dtype=torch.uint8, device=weight.device)
    parameter = nn.Parameter(bits, requires_grad=False)
    if weight.is_meta:
        nested = torch.empty(-(-blocks // NESTED_BLOCK), device="meta")
        scales = {"absmax": torch.empty(blocks, dtype=torch.uint8, device="meta")}
        scales |= {"offset": torch.empty((), device="meta"), "nested_absmax": nested}
        return parameter, scales | {"nested_code": torch.empty(256, device="meta")}
    largest = torch.empty(blocks, device=weight.device)
    flat = weight.reshape(-1)
    for first in range(0, blocks, PART):
        place = slice(first, first + PART)
        part = flat[first * BLOCK : (first + PART) * BLOCK]
        if missing := -len(part) % BLOCK:
            part = functional.pad(part, (0, missing))
        found, state = packing.quantize_4bit(part.view(-1, BLOCK), blocksize=BLOCK, quant_type="nf4")
        bits.view(blocks, -1)[place], largest[place] = found.view(-1, BLOCK // 2), state.absmax
    offset = largest.mean()
    absmax, second = packing.quantize_blockwise(largest - offset, blocksize=NESTED_BLOCK)
    scales = {"absmax": absmax, "offset": offset}
    return parameter, scales | {"nested_absmax": second.absmax, "nested_code": second.code}


FROZEN: dict[type[nn.Module], type[Frozen]] = {
    nn.Linear: FrozenLinear,
    Conv1D: FrozenConv1D,
    nn.Embedding: FrozenEmbedding,
}
"""By the exact class: a subclass may do more with its weights."""


def freeze_in(layer: nn.Module, dtype: torch.dtype, origin: str) -> None:
    """Make a layer one with frozen weights of 16 bits; those that it has are converted. In place."""
    layer.__class__ = FROZEN[type(layer)]
    assert isinstance(layer, Frozen)
    layer.origin = origin
    layer.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)


def freeze_in_nf4(layer: nn.Linear, origin: str) -> Nf4Linear:
    """Make a linear layer one whose weights are to be packed. In place."""
    layer.__class__ = Nf4Linear
    assert isinstance(layer, Nf4Linear)
    layer.origin = origin
    layer.weight.requires_grad = False
    return layer


def with_weights(layer: Frozen, weight: Tensor) -> None:
    """Give a layer float32 weights and make it what it is without frozen ones. In place."""
    layer.__class__ = layer.plain  # type: ignore[assignment]
    for name in ("absmax", "offset", "nested_absmax", "nested_code"):
        layer._buffers.pop(name, None)
    layer._non_persistent_buffers_set.clear()
    layer.weight = nn.Parameter(weight.float(), requires_grad=False)


def thaw(module: nn.Module) -> None:
    """Give a module that is to be trained float32 weights throughout, of the values that it has. In place."""
    for layer in list(module.modules()):
        if isinstance(layer, Frozen):
            with_weights(layer, layer.weight)


def thaw_trained(model: nn.Module) -> None:
    """Thaw the layers that are to be trained after all: a head that config.json calls tied, and is not. In place."""
    for layer in list(model.modules()):
        if isinstance(layer, Frozen) and layer.weight.requires_grad:
            thaw(layer)
            layer.weight.requires_grad_()
