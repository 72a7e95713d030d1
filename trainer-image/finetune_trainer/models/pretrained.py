"""Reads a model's weights, in float32 but for frozen ones, and says which tensors were not there."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.run import FaultPlace
from finetune_trainer.errors import NotFoundError
from finetune_trainer.layers.find import not_finite

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

    from finetune_trainer.models.frozen_weights import Reading

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Absent:
    """Tensors of a model that its folder does not have, and those that it has in another shape."""

    missing: frozenset[str] = frozenset()
    mismatched: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """All that were initialised, not read."""
        return self.missing | self.mismatched


def read_pretrained(
    source: "Path | dict[str, Tensor]",
    name: str,
    config: Any,
    auto_class: Any,
    mesh: "DeviceMesh | None" = None,
    reading: "Reading | None" = None,
    *,
    embeddings: bool = True,
) -> tuple[Any, Absent]:
    """The model with the weights of a folder or of another model, and the tensors that these lack, such as a head.

    They are in float32, but for what `reading` keeps in fewer bits. With a `mesh`, each of its ranks reads and keeps
    only its rows of the matrices of a folder, of the `embeddings` too. Raises NotFoundError for a tensor of the body
    that is missing or not finite.
    """
    import torch

    how = {
        "config": config,
        "dtype": torch.float32,
        "ignore_mismatched_sizes": True,
        "output_loading_info": True,
    }
    if reading is not None:
        how["quantization_config"] = reading
    concrete: Any = auto_class
    if mesh is not None or not isinstance(source, Path):
        with torch.device("meta"):  # only the concrete class takes weights without a folder
            concrete = type(auto_class.from_config(config))
    if isinstance(source, Path):
        kind: Any = concrete
        if mesh is not None:
            from finetune_trainer.models.slices import reading_slices

            kind = reading_slices(concrete, mesh, embeddings=embeddings)
        model, info = kind.from_pretrained(
            str(source), local_files_only=True, trust_remote_code=False, use_safetensors=True, **how
        )
        if mesh is not None:
            model.__class__ = concrete
    else:
        model, info = concrete.from_pretrained(None, state_dict=source, **how)
    mismatched = frozenset(key[0] for key in info["mismatched_keys"])
    absent = Absent(frozenset(info["missing_keys"]), mismatched | (reading.unfit if reading else set()))
    lacking = sorted(
        key for key in absent.names if key.startswith(body_prefix(model)) and "pooler." not in key
    )
    if lacking:
        raise NotFoundError(
            f"model: the weights of {name} lack {len(lacking)} tensors that config.json asks for, such as"
            f" {lacking[0]}; weights and config.json belong to different models",
            FaultPlace(field="model.uri", file=name),
        )
    _check_finite(model, name, reading.broken if reading else {})
    _correct_ties(model, name)
    if reading is not None:
        from finetune_trainer.models.frozen_weights import forget_reading

        forget_reading(model)
    return model, absent


def _correct_ties(model: Any, name: str) -> None:
    """Say in the configuration that a checkpoint has two tables, or a later step would put one in the other's place."""
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    text = model.config.get_text_config()
    if output is None or not getattr(text, "tie_word_embeddings", False):
        return
    if output.weight is not model.get_input_embeddings().weight:
        text.tie_word_embeddings = model.config.tie_word_embeddings = False
        logger.warning(
            f"{name}: config.json says that input and output embeddings are tied, and the checkpoint has two different"
            " tables; both are kept"
        )


def body_prefix(model: Any) -> str:
    """What the names of the body's tensors begin with."""
    return "" if model.base_model is model else f"{model.base_model_prefix}."


def _check_finite(model: Any, name: str, packed: dict[str, str]) -> None:
    """Raise NotFoundError for weights that hold NaN or infinity: what is computed with them cannot be published.

    `packed` has how many there were in matrices of which 4 bits are left.
    """
    for tensor_name, tensor in model.state_dict().items():
        broken = packed.get(tensor_name) or broken_numbers(tensor)
        if broken:
            raise NotFoundError(
                f"model: {broken} numbers of {tensor_name} in {name} are NaN or infinite; take"
                " another copy of the model",
                FaultPlace(field="model.uri", file=name),
            )


def broken_numbers(tensor: Any) -> str | None:
    """How many numbers are NaN or infinite, of how many; None without one."""
    broken = not_finite(tensor)
    return f"{broken} of the {tensor.numel()}" if broken else None
