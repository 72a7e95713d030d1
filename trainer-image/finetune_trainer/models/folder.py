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
from finetune_trainer.models.weight_files import check_weights

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""peft's names."""
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "*.model")
LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
"""Exceptions of transformers for unusable files."""


@dataclass(frozen=True)
class ModelFolder:
    """A folder that passed the checks which need no torch."""

    path: Path
    """With the weights of a whole model."""
    tokenizer: Path
    name: str
    resolved: ResolvedModel
    tokenizer_digest: str
    adapter: Path | None = None
    """The folder `name` itself, if it holds an adapter: `path` is then its base model."""
    base: str | None = None
    """The name of that base model."""

    @property
    def sentence(self) -> str:
        """What training starts from, where that is an adapter."""
        return f"adapter {self.name} merged into base {self.base}"

    def tokenizer_resolved(self, spec: ModelInput) -> ResolvedModel | None:
        """The other tokenizer as it was read; None for the model's own."""
        if spec.tokenizer_path is None or self.tokenizer == self.path:
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
        raise NotFoundError(no_weights(folder, name), FaultPlace(field="model.uri", file=name))
    if spec.initialize is Initialize.PRETRAINED:
        check_weights(folder, name)
    tokenizer_files = sorted(path for pattern in TOKENIZER_FILES for path in tokenizer.glob(pattern))
    if not tokenizer_files:
        raise NotFoundError(
            f"model: {tokenizer if spec.tokenizer_path else name} has no tokenizer (tokenizer.json); add its files or"
            " set model.tokenizer.uri",
            FaultPlace(field="model.tokenizer.uri", file=name),
        )
    if (tokenizer / "tokenizer.json").exists():
        json_object(
            tokenizer / "tokenizer.json", f"{tokenizer if spec.tokenizer_path else name}/tokenizer.json"
        )
    with input_errors(name, "model"):
        resolved = ResolvedModel(
            uri=spec.uri, revision=spec.revision, digest=digest_of([folder / "config.json", *weights])
        )
        return ModelFolder(folder, tokenizer, name, resolved, digest_of(tokenizer_files))


def _check_no_adapter(folder: Path, name: str) -> None:
    if (folder / ADAPTER_CONFIG).exists():
        config = json_object(folder / ADAPTER_CONFIG, f"{name}/{ADAPTER_CONFIG}")
        raise no_whole_model(name, config.get("base_model_name_or_path") or "the base model")


def no_whole_model(name: str, base: str, reason: str = "") -> NotFoundError:
    """The error for an adapter that cannot be merged; `reason` is the end of a clause."""
    return NotFoundError(
        f"model: {name} holds an adapter of {base}, not a whole model{reason}; train it with model.adapter.lora.merge:"
        f" true and use that folder, or set model.uri to {base}",
        FaultPlace(field="model.uri", file=name),
    )


def _check_config(folder: Path, name: str) -> None:
    config = json_object(folder / "config.json", f"{name}/config.json")
    if "quantization_config" in config:
        raise NotFoundError(
            f"model: {name} is quantized (quantization_config in config.json), and an adapter is trained on and merged"
            " into full weights only; take the model that it was quantized from, and set model.weights: NF4 to"
            " keep it in 4 bits",
            FaultPlace(field="model.uri", file=name),
        )
    if "auto_map" in config:
        raise NotFoundError(
            f"model: {name}/config.json has auto_map, custom code (trust_remote_code), which is always refused;"
            " use a model that transformers supports natively",
            FaultPlace(field="model.uri", file=name),
        )


def json_object(path: Path, name: str) -> dict[str, Any]:
    """A JSON file of a model's folder. Raises NotFoundError."""
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


def no_weights(folder: Path, name: str) -> str:
    """The message for a folder without safetensors."""
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if not pickled:
        return f"model: {name} has no weights; add *.safetensors files next to config.json"
    return (
        f"model: {name} has only pickled weights ({', '.join(pickled[:3])}), which can run code when they are loaded;"
        " convert them to safetensors"
    )


def digest_of(paths: list[Path], *others: str | None) -> str:
    """sha256 over the digests of files with their names, and over other digests."""
    joined = "".join(f"{sha256(path)}  {path.name}\n" for path in paths)
    joined += "".join(f"{other}\n" for other in others)
    return f"sha256:{hashlib.sha256(joined.encode()).hexdigest()}"


def first_line(error: Exception) -> str:
    """The first line of a library's error."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
