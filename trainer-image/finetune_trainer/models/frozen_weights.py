"""`model.weights`: which weights are kept in fewer bits than float32, and how they are read so."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from finetune_api.model import FrozenWeights, Initialize
from finetune_api.run import FaultPlace, ModelInput
from finetune_api.status import WeightsStatus
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.layers.frozen import (
    FROZEN,
    Frozen,
    Nf4Linear,
    Scales,
    freeze_in,
    freeze_in_nf4,
    packed,
)
from finetune_trainer.models.folder import ModelFolder
from finetune_trainer.models.freezing import freeze, unfrozen_later
from finetune_trainer.models.pretrained import broken_numbers
from finetune_trainer.models.weight_files import headers

FLOATS = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Number formats of weights by their names in safetensors."""
HALVES = (torch.bfloat16, torch.float16)
NAMES = {torch.float32: "Float32", torch.bfloat16: "BFloat16", torch.float16: "Float16"}
METHOD = "finetune"


@dataclass(frozen=True)
class Storage:
    """How frozen weights are kept."""

    dtype: torch.dtype
    """Of embeddings and, without NF4, of linear layers: 16 bits."""
    nf4: bool = False
    exact: bool = False
    """No digit of the checkpoint is lost."""


def storage_of(folder: ModelFolder, spec: ModelInput, *, divided: bool = False) -> Storage | None:
    """How the frozen weights of this run are kept; None for float32, or where all weights are trained.

    Weights that an adapter is merged into first are no longer those of a checkpoint: Auto keeps them in float32.
    """
    asked, frozen = spec.weights, spec.adapter is not None or spec.freeze is not None
    if not frozen or asked is FrozenWeights.FLOAT32 or spec.initialize is Initialize.RANDOM:
        return None
    own = torch.float32 if folder.adapter is not None else checkpoint_dtype(folder.path)
    if asked is FrozenWeights.AUTO:
        whole = own not in HALVES or divided
        return None if whole else Storage(own, exact=True)
    if asked is FrozenWeights.BFLOAT16:
        return Storage(torch.bfloat16, exact=own is torch.bfloat16)
    return Storage(own if own in HALVES else torch.bfloat16, nf4=True)


def checkpoint_dtype(folder: Path) -> torch.dtype:
    """The number format that holds all matrices of a folder, by the headers of its files; float32 without weights."""
    if not any(folder.glob("*.safetensors")):
        return torch.float32
    found = {
        FLOATS[entry["dtype"]]
        for header in headers(folder, folder.name)
        for entry in header.values()
        if len(entry["shape"]) > 1 and entry["dtype"] in FLOATS
    }
    return found.pop() if len(found) == 1 else torch.float32


def frozen_layers(model: Any, spec: ModelInput, *, extended: bool) -> Iterator[tuple[str, nn.Module, bool]]:
    """The layers of a model without an adapter whose weights stay as they are, and whether each is part of its body.

    An adapter adds tokens to embeddings, and folders may lack poolers: neither is frozen for certain.
    """
    chosen = {
        module: name
        for name, module in model.named_modules()
        if type(module) in FROZEN and "pooler" not in name and _is_frozen(model, module, spec)
    }
    tables = [model.get_input_embeddings()]
    outputs = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if outputs is not None and (outputs.weight is tables[0].weight or _tied(model)):
        tables.append(outputs)
        if tables[0] in chosen and type(outputs) in FROZEN:
            chosen.setdefault(outputs, _name_of(model, outputs))
    if outputs is not None and spec.adapter is not None and not extended and type(outputs) in FROZEN:
        chosen.setdefault(outputs, _name_of(model, outputs))
    if extended or not all(table in chosen for table in tables):
        for table in tables:
            chosen.pop(table, None)
    for module, name in chosen.items():
        yield name, module, module is not outputs


def _tied(model: Any) -> bool:
    return bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))


def _name_of(model: Any, wanted: nn.Module) -> str:
    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
    return names[wanted]


def _is_frozen(model: Any, module: nn.Module, spec: ModelInput) -> bool:
    if spec.adapter is not None:
        return any(module is part for part in model.base_model.modules())
    return not any(parameter.requires_grad for parameter in module.parameters())


def keep(model: Any, spec: ModelInput, storage: Storage, *, extended: bool) -> dict[str, Nf4Linear]:
    """Make the frozen layers of a model on the meta device ones with fewer bits; returns those whose weights are still
    to be packed, by their names.

    Raises ConfigurationError for NF4 where the body has no linear layer to pack.
    """
    if spec.freeze is not None:
        freeze(model, spec.freeze)
        for parameter in unfrozen_later(model, spec.freeze):
            parameter.requires_grad_(requires_grad=True)
    to_pack = {}
    for name, module, in_body in list(frozen_layers(model, spec, extended=extended)):
        if storage.nf4 and in_body and type(module) is nn.Linear:
            to_pack[name] = freeze_in_nf4(module, name)
        else:
            freeze_in(module, storage.dtype, name)
    if storage.nf4 and not to_pack:
        raise ConfigurationError(
            f"model.weights: {type(model).__name__} has no layer of torch.nn.Linear that NF4 could keep; set BFloat16"
            " or Auto",
            FaultPlace(field="model.weights"),
        )
    return to_pack


def pack_empty(model: Any, spec: ModelInput, storage: Storage, *, extended: bool) -> None:
    """`keep` in a model that stays on the meta device."""
    for layer in keep(model, spec, storage, extended=extended).values():
        layer.weight, scales = packed(layer.weight)
        layer.scaled(scales)
        layer._is_hf_initialized = True  # type: ignore[assignment] # a new head is drawn, and these are not
    model.tie_weights()


class Reading(QuantizationConfigMixin):  # type: ignore[misc]
    """How transformers is to read a model: it calls this a quantization."""

    quant_method: Any = METHOD

    def __init__(self, spec: ModelInput, storage: Storage, *, extended: bool) -> None:
        self.spec, self.storage, self.extended = spec, storage, extended
        self.broken: dict[str, str] = {}
        """How many numbers are not finite, by tensor."""
        self.unfit: set[str] = set()
        """Tensors of another shape."""

    def to_dict(self) -> dict[str, Any]:
        """For transformers, which logs it."""
        return {"quant_method": METHOD}


@register_quantizer(METHOD)
class _Reader(HfQuantizer):  # type: ignore[misc]
    """Changes layers before their weights are read, and packs each matrix as it comes."""

    quantization_config: Reading
    layers: dict[str, Nf4Linear]
    scales: dict[Nf4Linear, Scales]

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        how = self.quantization_config
        self.layers = keep(model, how.spec, how.storage, extended=how.extended)
        self.scales = {}

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        """Whether it is a matrix to be packed."""
        layer, _dot, kind = param_name.rpartition(".")
        return kind == "weight" and layer in self.layers

    def get_quantize_ops(self) -> "_Reader":
        """What packs: this object."""
        return self

    def convert(self, tensors: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Pack a matrix."""
        ((name, given),) = tensors.items()
        weight = given[0] if isinstance(given, list) else given
        layer, how = self.layers[name.removesuffix(".weight")], self.quantization_config
        if weight.shape != (layer.out_features, layer.in_features):
            how.unfit.add(name)
            return {name: layer.weight}
        if broken := broken_numbers(weight):
            how.broken[name] = broken
        bits, self.scales[layer] = packed(weight)
        return {name: bits}

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        """Before, transformers would replace buffers that no file has by uninitialised memory."""
        for layer, scales in self.scales.items():
            layer.scaled(scales)
        return model

    def is_serializable(self) -> bool:
        """What is published is not packed."""
        return False

    @property
    def is_trainable(self) -> bool:
        """With an adapter."""
        return True


def forget_reading(model: Any) -> None:
    """Remove what transformers notes of it in the model: what is published has plain weights."""
    model.hf_quantizer.remove_quantization_config(model)
    for module in model.modules():
        if hasattr(module, "config") and hasattr(module.config, "_is_quantized"):
            del module.config._is_quantized


def parameters_of(model: nn.Module) -> int:
    """Weights of a model, each counted once, however many bits it has."""
    return sum(part.parameters for part in weights_by_format(model))


def weights_by_format(model: nn.Module) -> list[WeightsStatus]:
    """The parts of a model: format, trained or not, weights, bytes."""
    known: set[int] = set()
    counts: Counter[tuple[str, bool]] = Counter()
    sizes: Counter[tuple[str, bool]] = Counter()
    for module in model.modules():
        in_nf4 = isinstance(module, Nf4Linear) and module.weight.dtype is torch.uint8
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in known:
                continue
            known.add(id(parameter))
            four = in_nf4 and name == "weight"
            key = ("NF4" if four else format_name(parameter.dtype), parameter.requires_grad)
            counts[key] += module.numbers if isinstance(module, Nf4Linear) and four else parameter.numel()
            extra = module.buffers(recurse=False) if four else ()
            sizes[key] += sum(part.numel() * part.element_size() for part in (parameter, *extra))
    return [
        WeightsStatus(
            format=form,
            trained=trained,
            parameters=count,
            bytes_per_parameter=round(sizes[form, trained] / count, 3),
        )
        for (form, trained), count in counts.most_common()
        if count
    ]


def format_name(dtype: torch.dtype) -> str:
    """As the API names it."""
    return NAMES.get(dtype, str(dtype).removeprefix("torch."))


def sentence(parts: list[WeightsStatus], checkpoint: torch.dtype) -> str:
    """What of the weights is kept how."""
    said = ", ".join(
        f"{part.parameters:,} {'trained' if part.trained else 'frozen'} in {part.format}"
        f" ({part.bytes_per_parameter:g} bytes each)"
        for part in parts
    )
    return f"weights: {said}; the checkpoint's matrices have {format_name(checkpoint)}"


def is_kept(model: nn.Module) -> bool:
    """Whether some layer has its weights in fewer bits."""
    return any(isinstance(module, Frozen) for module in model.modules())
