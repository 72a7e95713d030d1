"""A model's folder: which files are accepted, and their digest.

Only safetensors weights and models that transformers itself knows are accepted: nothing in the folder is executed.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from finetune_api.model import Initialize
from finetune_api.run import FaultPlace, ModelInput
from finetune_api.status import ResolvedModel
from finetune_trainer.errors import NotFoundError, input_errors
from finetune_trainer.files import sha256

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "*.model")
LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
"""Exceptions of transformers for unusable files."""


@dataclass(frozen=True)
class ModelFolder:
    """A folder that passed the checks which need no torch."""

    path: Path
    tokenizer: Path
    name: str
    resolved: ResolvedModel
    tokenizer_digest: str

    def tokenizer_resolved(self, spec: ModelInput) -> ResolvedModel | None:
        """The other tokenizer as it was read; None for the model's own."""
        if self.tokenizer == self.path:
            return None
        return ResolvedModel(
            uri=spec.tokenizer_uri, revision=spec.tokenizer_revision, digest=self.tokenizer_digest
        )


def check_folder(spec: ModelInput) -> ModelFolder:
    """Check the files. Raises NotFoundError with the missing file, or with the reason why the folder is refused."""
    folder, name = Path(spec.path), spec.uri or spec.path
    tokenizer = Path(spec.tokenizer_path or spec.path)
    if not folder.is_dir():
        raise NotFoundError(
            f"model: folder {name} does not exist; check the path", FaultPlace(field="model.uri", file=name)
        )
    _check_no_adapter(folder, name)
    _check_config(folder, name)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and spec.initialize is Initialize.PRETRAINED:
        raise NotFoundError(_no_weights(folder, name), FaultPlace(field="model.uri", file=name))
    tokenizer_files = sorted(path for pattern in TOKENIZER_FILES for path in tokenizer.glob(pattern))
    if not tokenizer_files:
        raise NotFoundError(
            f"model: {tokenizer if spec.tokenizer_path else name} has no tokenizer (tokenizer.json); add its files or"
            " set model.tokenizer.uri",
            FaultPlace(field="model.tokenizer.uri", file=name),
        )
    if (tokenizer / "tokenizer.json").exists():
        _json_object(
            tokenizer / "tokenizer.json", f"{tokenizer if spec.tokenizer_path else name}/tokenizer.json"
        )
    with input_errors(name, "model"):
        resolved = ResolvedModel(
            uri=spec.uri, revision=spec.revision, digest=_digest([folder / "config.json", *weights])
        )
        return ModelFolder(folder, tokenizer, name, resolved, _digest(tokenizer_files))


def _check_no_adapter(folder: Path, name: str) -> None:
    if not (folder / "adapter_config.json").exists():
        return
    config = _json_object(folder / "adapter_config.json", f"{name}/adapter_config.json")
    base = config.get("base_model_name_or_path") or "the base model"
    raise NotFoundError(
        f"model: {name} holds an adapter of {base}, not a whole model; train it with model.adapter.lora.merge: true and"
        f" use that folder, or set model.uri to {base}",
        FaultPlace(field="model.uri", file=name),
    )


def _check_config(folder: Path, name: str) -> None:
    if "auto_map" in _json_object(folder / "config.json", f"{name}/config.json"):
        raise NotFoundError(
            f"model: {name}/config.json has auto_map, custom code (trust_remote_code), which is always refused;"
            " use a model that transformers supports natively",
            FaultPlace(field="model.uri", file=name),
        )


def _json_object(path: Path, name: str) -> dict[str, Any]:
    place = FaultPlace(field="model.uri", file=name)
    with input_errors(name, "model"):
        text = path.read_bytes()
    try:
        value = json.loads(text)
    except ValueError as error:
        raise NotFoundError(f"model: {name} is not JSON: {error}", place) from error
    if not isinstance(value, dict):
        raise NotFoundError(f"model: {name} is not a JSON object", place)
    return value


def _no_weights(folder: Path, name: str) -> str:
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if not pickled:
        return f"model: {name} has no weights; add *.safetensors files next to config.json"
    return (
        f"model: {name} has only pickled weights ({', '.join(pickled[:3])}), which can run code when they are loaded;"
        " convert them to safetensors"
    )


def _digest(paths: list[Path]) -> str:
    joined = "".join(f"{sha256(path)}  {path.name}\n" for path in paths)
    return f"sha256:{hashlib.sha256(joined.encode()).hexdigest()}"


def first_line(error: Exception) -> str:
    """The first line of a library's error."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
