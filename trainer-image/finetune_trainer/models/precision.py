"""Number formats: whether models can be computed in that of the hardware, and that of published weights."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.distributed.tensor import DTensor

from finetune_api.model import Dtype
from finetune_api.run import FaultPlace
from finetune_api.training import Precision
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.layers.probes import why_not_bfloat16
from finetune_trainer.process.devices import Compute
from finetune_trainer.shipped.custom_head import HeadedModel

logger = logging.getLogger(__name__)

PUBLISHED = (torch.float32, torch.bfloat16, torch.float16)
STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Names of the number formats in safetensors."""


def resolve_precision(
    loaders: Iterable[Callable[[], Any]], compute: Compute, asked: Precision, field: str
) -> Compute:
    """In float32, where a CPU computes in bfloat16 and one of the models cannot be; one is in memory at a time.

    Raises ConfigurationError if `field` requires bfloat16.
    """
    if compute.device.type != "cpu" or compute.precision is not Precision.BFLOAT16:
        return compute
    for load in loaders:
        reason = _why_not(load())
        if reason is None:
            continue
        if asked is Precision.BFLOAT16:
            raise ConfigurationError(f"{field}: {reason}; set Auto or Float32", FaultPlace(field=field))
        logger.warning(f"{reason}; using Float32 instead")
        return replace(compute, precision=Precision.FLOAT32)
    return compute


def _why_not(model: Any) -> str | None:
    reason = why_not_bfloat16(model)
    return reason and f"{type(model).__name__} cannot be computed in bfloat16 ({reason})"


def published_dtype(asked: Dtype, folder: Path) -> torch.dtype:
    """Of the weights that are published: as asked, else that of the base model in the folder."""
    if asked is not Dtype.AUTO:
        return torch.float32 if asked is Dtype.FLOAT32 else torch.bfloat16
    config = json.loads((folder / "config.json").read_text())
    name = config.get("dtype") or config.get("torch_dtype") or _stored_dtype(folder)
    found = getattr(torch, str(name), torch.float32)
    return found if found in PUBLISHED else torch.float32


def _stored_dtype(folder: Path) -> str:
    """Of the first tensor of floating point, as transformers finds it where config.json does not say."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                dtype = tensors.get_slice(name).get_dtype()
                if dtype in STORED:
                    return STORED[dtype]
    return "float32"


def dtype_name(dtype: torch.dtype) -> str:
    """As transformers writes it."""
    return str(dtype).removeprefix("torch.")


def round_weights(model: Any, dtype: torch.dtype) -> None:
    """Give what is published the values that it has in another number format; it stays in its own. In place.

    An unmerged adapter is published without its base model. A custom head, which is small, is published in float32.
    """
    alone = hasattr(model, "peft_config")
    with torch.no_grad():
        for tensor in _floating_tensors(published_part(model)):
            if tensor.requires_grad or not alone:
                tensor.copy_(tensor.to(dtype))


def published_part(model: Any) -> Any:
    """The part of a model whose number format is chosen: all of it, or the encoder below a custom head."""
    return model.encoder if isinstance(model, HeadedModel) else model


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert floating-point parameters and buffers in place, but those that are sharded; `Module.to` refuses these."""
    for tensor in _floating_tensors(model):
        if not isinstance(tensor, DTensor):
            tensor.data = tensor.data.to(dtype)


def _floating_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    return (each for each in (*model.parameters(), *model.buffers()) if each.is_floating_point())
