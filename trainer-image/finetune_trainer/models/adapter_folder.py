"""A folder with an adapter as the base model of a run: what it says of the model that it belongs to."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.model import Initialize
from finetune_api.run import FaultPlace, ModelInput
from finetune_api.status import ResolvedModel
from finetune_trainer.errors import NotFoundError
from finetune_trainer.models.folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    TOKENIZER_FILES,
    ModelFolder,
    check_folder,
    digest_of,
    json_object,
    no_weights,
    no_whole_model,
)


@dataclass(frozen=True)
class AdapterFolder:
    """A LoRA adapter, and the base model that it names."""

    path: Path
    name: str
    base: str
    """base_model_name_or_path: a folder, a pvc:// URI, or a repository on the Hugging Face Hub; empty if not known."""
    revision: str | None
    """Of the repository."""
    base_digest: str | None
    """Of the base model that it was trained on, as run.json has it."""


def check_model(spec: ModelInput, find_base: Callable[[AdapterFolder], Path]) -> ModelFolder:
    """`check_folder`, which also takes an adapter with the base model that `find_base` finds.

    Raises NotFoundError for an adapter that cannot be merged.
    """
    adapter = read_adapter(spec)
    return check_folder(spec) if adapter is None else _with_base(spec, adapter, find_base(adapter))


def read_adapter(spec: ModelInput) -> AdapterFolder | None:
    """The adapter in a model's folder; None where there is none. Raises NotFoundError for one that is not LoRA."""
    folder, name = Path(spec.path), spec.uri or spec.path
    if not (folder / ADAPTER_CONFIG).exists():
        return None
    config = json_object(folder / ADAPTER_CONFIG, f"{name}/{ADAPTER_CONFIG}")
    base = str(config.get("base_model_name_or_path") or "")
    if config.get("peft_type") != "LORA":
        kind = config.get("peft_type") or "unknown"
        raise no_whole_model(name, base or "its base model", f" (peft_type {kind}; only LORA can be merged)")
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise NotFoundError(no_weights(folder, name), FaultPlace(field="model.uri", file=name))
    return AdapterFolder(folder, name, base, config.get("revision"), _recorded_digest(folder))


def _recorded_digest(folder: Path) -> str | None:
    try:
        digest = json.loads((folder / "run.json").read_text())["report"]["resolved"]["model"]["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(digest) if digest else None


def _with_base(spec: ModelInput, adapter: AdapterFolder, path: Path) -> ModelFolder:
    has_tokenizer = any(found for pattern in TOKENIZER_FILES for found in adapter.path.glob(pattern))
    tokenizer = spec.tokenizer_path or (str(adapter.path) if has_tokenizer else None)
    changes: dict[str, Any] = {"path": str(path), "uri": adapter.base, "tokenizer_path": tokenizer}
    whole = check_folder(spec.model_copy(update=changes))
    if spec.initialize is Initialize.RANDOM:
        return whole
    _check_base(whole, adapter)
    own = [adapter.path / name for name in ("config.json", ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
    digest = digest_of([each for each in own if each.exists()], whole.resolved.digest)
    resolved = ResolvedModel(
        uri=spec.uri, revision=spec.revision, digest=digest, merged_into=adapter.base[:512]
    )
    return replace(whole, name=adapter.name, resolved=resolved, adapter=adapter.path, base=adapter.base)


def _check_base(whole: ModelFolder, adapter: AdapterFolder) -> None:
    """Raise NotFoundError for a base model other than the adapter's."""
    place = FaultPlace(field="model.uri", file=adapter.name)
    if adapter.base_digest not in (None, whole.resolved.digest):
        raise NotFoundError(
            f"model: {adapter.base} is not the model that the adapter {adapter.name} was trained on: its digest is"
            f" {whole.resolved.digest}, and run.json beside the adapter has {adapter.base_digest}; restore the base"
            " model",
            place,
        )
