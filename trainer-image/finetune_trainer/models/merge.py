"""An adapter as the base model of a run: it is merged into its own base before training."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.run import FaultPlace
from finetune_trainer.errors import NotFoundError
from finetune_trainer.models.adapters import TASKS
from finetune_trainer.models.folder import ADAPTER_WEIGHTS, LOAD_ERRORS, ModelFolder
from finetune_trainer.models.pretrained import read_pretrained

if TYPE_CHECKING:
    from torch import Tensor

AUTO_CLASSES = {task: name for name, task in TASKS.items()} | {"FEATURE_EXTRACTION": "AutoModel"}
"""Classes of transformers by peft's task type."""
PREFIX = "base_model.model."
"""Begins the names of tensors in an adapter's file."""
SAVED = ".modules_to_save."
"""In second names that peft gives some tensors, such as embeddings of an extended vocabulary."""


def merged_weights(folder: ModelFolder, config: Any) -> "dict[str, Tensor]":
    """The weights of the base model with the adapter merged into them, in float32, by their names.

    `config`, that of the base model, gets the adapter's labels, its class and its vocabulary size. Tensors that neither
    the base model nor the adapter has, such as a head, are absent. Raises NotFoundError where they do not fit.
    """
    assert folder.adapter is not None
    try:
        return _merge(folder, folder.adapter, config)
    except (*LOAD_ERRORS, TypeError, IndexError, UserWarning) as error:
        raise NotFoundError(
            f"model: {folder.name} cannot be merged into {folder.base}: {' '.join(str(error).split())[:300]}; the base"
            " must be the model that the adapter was trained on, and an adapter with labels needs its own"
            " config.json",
            FaultPlace(field="model.uri", file=folder.name),
        ) from error


def _merge(folder: ModelFolder, adapter: Path, config: Any) -> "dict[str, Tensor]":
    from peft import PeftConfig, get_peft_model
    from safetensors.torch import load_file

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Unexpected keyword", UserWarning)  # of a newer peft
        settings = PeftConfig.from_pretrained(str(adapter))
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    _take_labels(config, adapter)
    kind = _class_of(settings, config)
    model, absent = read_pretrained(folder.path, folder.base or folder.name, config, kind)
    _extend_vocabulary(model, tensors)
    settings.base_model_name_or_path = model.name_or_path
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft asks for it
        warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied", UserWarning)
        adapted = get_peft_model(model, settings)
        _check_fit(adapted.load_adapter(str(adapter), "default", torch_device="cpu"), tensors)
        merged = adapted.merge_and_unload()
    config.tie_word_embeddings = merged.config.tie_word_embeddings
    config.architectures = [type(merged).__name__]
    config.get_text_config().vocab_size = len(merged.get_input_embeddings().weight)
    given = {name.removeprefix(PREFIX) for name in tensors}
    return {name: value for name, value in merged.state_dict().items() if name not in absent.names - given}


def _check_fit(loaded: Any, tensors: "dict[str, Tensor]") -> None:
    """Raise ValueError where a tensor of the file has no place in the model, or the other way round."""
    twice = {name for name in tensors if name.replace(SAVED, ".") in tensors.keys() - {name}}
    strangers = [*loaded.missing_keys, *(name for name in loaded.unexpected_keys if name not in twice)]
    if strangers:
        raise ValueError(f"{len(strangers)} tensors of the adapter do not fit, such as {strangers[0]}")


def _take_labels(config: Any, adapter: Path) -> None:
    """Of the adapter's own config.json, which belongs to its head, where it has one."""
    from transformers import AutoConfig

    if (adapter / "config.json").exists():
        own = AutoConfig.from_pretrained(str(adapter), local_files_only=True, trust_remote_code=False)
        config.id2label, config.label2id, config.problem_type = own.id2label, own.label2id, own.problem_type


def _class_of(settings: Any, config: Any) -> Any:
    """The class of transformers that the adapter was trained on."""
    import transformers

    own = (settings.auto_mapping or {}).get("base_model_class")
    name = AUTO_CLASSES.get(settings.task_type) or own or next(iter(config.architectures or []), "AutoModel")
    return getattr(transformers, name)


def _extend_vocabulary(model: Any, tensors: "dict[str, Tensor]") -> None:
    """Give the model the tokens that the adapter was trained with. Raises ValueError if their embeddings are lost."""
    tables = [model.get_input_embeddings().weight]
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    tables += [] if output is None else [output.weight]
    named = [(PREFIX + name, value) for name, value in model.named_parameters(remove_duplicate=False)]
    saved = [
        next((tensors[name] for name, value in named if value is table and name in tensors), None)
        for table in tables
    ]
    rows = max((len(each) for each in saved if each is not None), default=0)
    if rows > len(tables[0]):
        if any(each is None for each in saved):
            raise ValueError(
                f"the embeddings of its {rows - len(tables[0])} additional tokens are incomplete"
            )
        model.resize_token_embeddings(rows, mean_resizing=False)
