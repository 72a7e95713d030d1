"""`model.adapter`: low-rank adaptation (Hu et al. 2022) by peft."""

import warnings
from pathlib import Path
from typing import Any

from finetune_api.model import Initialize, LoraSpec
from finetune_api.run import FaultPlace, ModelInput
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.models.embeddings import ReplacedIds

HUB = "hf://"
TASKS = {
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForCausalLM": "CAUSAL_LM",
}
"""peft's names. By these it knows heads called classifier or score, whatever else they end in; `_head` the others."""


SHARD_SIZE = "5GB"
"""Of a file of weights at most; a larger model has several, and model.safetensors.index.json."""


def check_adapter(spec: ModelInput, *, on_adapter: bool = False) -> None:
    """Refuse settings that an adapter's folder cannot represent; `on_adapter`: model.uri is merged from an adapter."""
    lora = spec.adapter.lora if spec.adapter else None
    if lora is None or lora.merge:
        return
    for field, given in (
        ("model.head", spec.head is not None),
        ("model.tokenizer.addTokens", spec.add_tokens),
        ("model.initialize: Random", spec.initialize is Initialize.RANDOM),
        ("model.uri names an adapter, and merging it", on_adapter),
    ):
        if given:
            raise ConfigurationError(
                f"{field} changes the base model, so the adapter would not fit the original one; set"
                " model.adapter.lora.merge: true",
                FaultPlace(field="model.adapter.lora.merge"),
            )


def adapt(
    model: Any, spec: ModelInput, auto_class: str, added: ReplacedIds, fresh: frozenset[str] = frozenset()
) -> Any:
    """Freeze the model and add LoRA matrices to its linear layers; its head and the rows of added tokens are trained.

    So are the `fresh` modules, which have no weights in the checkpoint: each load initialises them differently.
    Raises ConfigurationError when targetModules names no linear layer.
    """
    from peft import LoraConfig

    assert spec.adapter is not None
    assert spec.adapter.lora is not None
    lora, (name, revision) = spec.adapter.lora, base_model(spec.uri or spec.path)
    config = LoraConfig(
        task_type="FEATURE_EXTRACTION" if spec.head else TASKS[auto_class],
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type] # peft takes any number
        lora_dropout=lora.dropout,
        fan_in_fan_out=_transposed(model),
        target_modules=_targets(model, lora),
        modules_to_save=None if spec.head else sorted(fresh | _head(model, auto_class)) or None,
        trainable_token_indices=sorted(added) or None,
    )
    if spec.head:
        model.encoder = _wrapped(model.encoder, config)
        return model
    adapted = _wrapped(model, config)
    config.base_model_name_or_path, config.revision = (
        name,
        spec.revision or revision,
    )  # peft put a path of this container here
    return adapted


def _head(model: Any, auto_class: str) -> set[str]:
    """Names of the modules beside the body, which are trained as a whole; a vocabulary's head belongs to the body."""
    body = model.base_model
    if body is model or TASKS[auto_class] == "CAUSAL_LM":
        return set()
    beside = ((name, module) for name, module in model.named_children() if module is not body)
    return {name for name, module in beside if next(module.parameters(), None) is not None}


def _wrapped(model: Any, config: Any) -> Any:
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft asks for it
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ConfigurationError(
                f"model.adapter.lora: peft cannot adapt {type(model).__name__}"
                f" ({str(error).splitlines()[0]}); remove model.adapter to train the whole model",
                FaultPlace(field="model.adapter.lora"),
            ) from error


def _transposed(model: Any) -> bool:
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())


def base_model(uri: str) -> tuple[str, str | None]:
    """The argument for `from_pretrained`, and the revision: owner/name on the Hub, else the URI unchanged."""
    if not uri.startswith(HUB):
        return uri, None
    name, _, revision = uri.removeprefix(HUB).partition("@")
    return name, revision or None


def _targets(model: Any, lora: LoraSpec) -> str | list[str]:
    if lora.target_modules is None:
        return "all-linear"
    names = linear_layers(model)
    for target in lora.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            kinds = sorted({name.rpartition(".")[2] for name in names})
            raise ConfigurationError(
                f"model.adapter.lora.targetModules: the model has no linear layer {target!r}; it has"
                f" {', '.join(kinds)}",
                FaultPlace(field="model.adapter.lora.targetModules"),
            )
    return lora.target_modules


def linear_layers(model: Any) -> list[str]:
    """Names of the linear layers in the model's body, those of GPT-2 (Conv1D) too."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    body = model.base_model
    return [name for name, module in body.named_modules() if isinstance(module, Linear | Conv1D)]


def untrained(model: Any) -> set[Any]:
    """Weights of the base model under an adapter; checkpoints omit them, because they can be read again."""
    if not any(hasattr(module, "peft_config") for module in model.modules()):
        return set()
    return {parameter for parameter in model.parameters() if not parameter.requires_grad}


def save_weights(model: Any, spec: ModelInput, folder: Path) -> None:
    """Write a complete model, or only the adapter with the config.json that has the labels, to a folder."""
    lora = spec.adapter.lora if spec.adapter else None
    if lora is None:
        model.save_pretrained(str(folder), max_shard_size=SHARD_SIZE)
    elif lora.merge:
        merged(model, spec).save_pretrained(str(folder), max_shard_size=SHARD_SIZE)
    else:
        model.save_pretrained(str(folder), save_embedding_layers=False)
        model.config.to_json_file(str(folder / "config.json"))


def merges(spec: ModelInput) -> bool:
    """Whether an adapter is published as a part of the whole model."""
    return spec.adapter is not None and spec.adapter.lora is not None and spec.adapter.lora.merge


def merged(model: Any, spec: ModelInput) -> Any:
    """The model with the adapter merged into its weights, in place; one merged before stays as it is."""
    if spec.head is None:
        return model.merge_and_unload() if hasattr(model, "peft_config") else model
    if hasattr(model.encoder, "peft_config"):
        model.encoder = model.encoder.merge_and_unload()
    return model


def model_format(spec: ModelInput) -> str:
    """`status.model.format`: how the folder is loaded."""
    lora = spec.adapter.lora if spec.adapter else None
    if lora is not None and not lora.merge:
        return "peft"
    return "custom-head" if spec.head is not None else "safetensors"
