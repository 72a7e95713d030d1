"""The files with a model's weights: which of a folder are read, and what their headers say. No weight is read."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from finetune_api.run import FaultPlace
from finetune_trainer.errors import NotFoundError, input_errors

logger = logging.getLogger(__name__)

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""transformers' names: of the one file, which it prefers, and of the list of several."""
GIT_LFS = b"version https://git-lfs"
QUANTIZED = ("F8_", "F6_", "F4")
QUANTIZED_INTEGERS = ("I8", "U8")
"""Begin the names of number formats in safetensors that mean nothing without scales."""

Header = dict[str, dict[str, Any]]
"""Number format (dtype) and shape of every tensor of a file, by its name."""


def weight_files(folder: Path, name: str) -> list[Path]:
    """Those that transformers reads. Raises NotFoundError where some are missing."""
    whole, index = folder / WHOLE, folder / INDEX
    if whole.exists():
        return [whole]
    if not index.exists():
        there = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))[:3])
        raise _refused(
            name, f"has {there}, but neither {WHOLE} nor {INDEX}, which lists several; copy the whole folder"
        )
    named = _named(index, name)
    if missing := sorted(each for each in named if not (folder / each).exists()):
        files = f"one of the {len(named)} files that {INDEX} names"
        raise _refused(name, f"lacks {missing[0]}, {files}; copy the whole folder again")
    return [folder / each for each in sorted(named)]


def check_weights(folder: Path, name: str) -> None:
    """Raise NotFoundError for files that are no safetensors, are incomplete, or hold quantized weights."""
    files = weight_files(folder, name)
    if files == [folder / WHOLE] and (folder / INDEX).exists():
        logger.warning(
            f"{name} has {WHOLE}, which is read, and {INDEX}, which is not: transformers does the same"
        )
    for path in files:
        for tensor, entry in header_of(path, name).items():
            if _is_quantized(tensor, entry):
                raise _refused(
                    name,
                    f"has {tensor} in {entry['dtype']}, a quantized format, and config.json says nothing of its scales"
                    " (quantization_config); take the model that it was quantized from",
                )


def headers(folder: Path, name: str) -> Iterator[Header]:
    """Of each file that is read."""
    return (header_of(path, name) for path in weight_files(folder, name))


def header_of(path: Path, name: str) -> Header:
    """What a file of safetensors says of its tensors. Raises NotFoundError for one that is truncated or damaged."""
    own = f"{name}/{path.name}"
    with input_errors(own, "model"):
        with path.open("rb") as file:
            if file.read(len(GIT_LFS)) == GIT_LFS:
                raise _refused(
                    own, "is a Git LFS pointer and not the file itself; fetch it with git lfs pull"
                )
        try:
            with safe_open(path, framework="np") as tensors:
                slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118 - not a mapping
                return {
                    key: {"dtype": part.get_dtype(), "shape": part.get_shape()}
                    for key, part in slices.items()
                }
        except SafetensorError as error:
            raise _refused(
                own, f"is no safetensors file, or is truncated or damaged ({error}); copy it again"
            ) from error


def _named(index: Path, name: str) -> set[str]:
    """The files that an index names."""
    with input_errors(f"{name}/{INDEX}", "model"):
        text = index.read_bytes()
    try:
        named = set(map(str, json.loads(text)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refused(f"{name}/{INDEX}", "has no weight_map; copy it again") from error
    if strange := sorted(each for each in named if "/" in each or not each.endswith(".safetensors")):
        raise _refused(
            f"{name}/{INDEX}", f"names {strange[0][:80]}; only files of safetensors beside it are read"
        )
    return named


def _is_quantized(tensor: str, entry: dict[str, Any]) -> bool:
    """Masks and positions are integers too, which are no matrices called weight."""
    integers = entry["dtype"] in QUANTIZED_INTEGERS and len(entry["shape"]) == 2
    return entry["dtype"].startswith(QUANTIZED) or (integers and tensor.endswith(".weight"))


def _refused(name: str, why: str) -> NotFoundError:
    return NotFoundError(f"model: {name} {why}", FaultPlace(field="model.uri", file=name))
