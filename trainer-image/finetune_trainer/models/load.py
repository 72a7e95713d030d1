"""From a model's folder to a torch model with a head for the objective, frozen or adapted as asked."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.model import Initialize
from finetune_api.run import FaultPlace, ModelInput
from finetune_api.training import OptimizerName, TrainingSpec
from finetune_trainer.errors import ConfigurationError, NotFoundError
from finetune_trainer.models.adapters import adapt
from finetune_trainer.models.base_head import (
    BaseHead,
    HeadChoice,
    base_head_of,
    choose_head,
    draw_again,
    head_modules,
    reorder,
)
from finetune_trainer.models.embeddings import ReplacedIds, extend_embeddings
from finetune_trainer.models.folder import LOAD_ERRORS, ModelFolder, first_line
from finetune_trainer.models.freezing import freeze, trained_parameters
from finetune_trainer.models.heads import add_head, read_head
from finetune_trainer.models.merge import merged_weights
from finetune_trainer.models.pretrained import Absent, body_prefix, read_pretrained
from finetune_trainer.models.tensor_plan import bytes_saved, tensor_plan
from finetune_trainer.objectives import Objective
from finetune_trainer.process.memory import Need

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

    from finetune_trainer.models.frozen_weights import Storage

logger = logging.getLogger(__name__)

_DROPOUT_FIELDS = """
hidden_dropout_prob attention_probs_dropout_prob classifier_dropout classifier_dropout_prob dropout dropout_prob
attention_dropout activation_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop summary_first_dropout
seq_classif_dropout embedding_dropout mlp_dropout
"""
FLOAT32_BYTES = 4
DROPOUTS = tuple(_DROPOUT_FIELDS.split())


@dataclass(frozen=True)
class LoadedModel:
    """A model, and which head it has."""

    model: Any
    head: HeadChoice


def load_model(
    folder: ModelFolder,
    spec: ModelInput,
    objective: Objective[Any],
    pad_id: int | None,
    added: ReplacedIds | None = None,
    mesh: "DeviceMesh | None" = None,
    storage: "Storage | None" = None,
) -> LoadedModel:
    """The model with a head for this objective, frozen as asked; `added` are the tokens added to its own.

    In float32, but for the frozen weights that `storage` keeps in fewer bits.

    With a `mesh`, each of its ranks reads only its rows of the matrices; a base model that is an adapter, and random
    weights, are whole on every rank.
    Raises NotFoundError when transformers does not know it or tensors are missing or not finite, ConfigurationError for
    what of the spec does not fit the model.
    """
    from finetune_trainer.layers.frozen import thaw, thaw_trained
    from finetune_trainer.models.frozen_weights import Reading, pack_empty

    config, random = known_config(folder), spec.initialize is Initialize.RANDOM
    weights: Path | dict[str, torch.Tensor] = folder.path
    if folder.adapter is not None:
        weights = merged_weights(folder, config)
        logger.info(folder.sentence)
    base = base_head_of(folder.adapter or folder.path, config)
    _configure(config, spec, objective, pad_id)
    absent = Absent()
    with _load_errors(folder, objective):
        if random:
            model = auto_class(spec, objective).from_config(config).float()
            model.tie_weights()  # on the meta device some are not
            if storage is not None:
                pack_empty(model, spec, storage, extended=bool(added))
        else:
            kind, extended = auto_class(spec, objective), bool(added)
            reading = Reading(spec, storage, extended=extended) if storage else None
            model, absent = read_pretrained(
                weights, folder.name, config, kind, mesh, reading, embeddings=not extended
            )
    _check_vocabulary(model, folder, objective, absent)
    if spec.dropout is not None:
        _set_dropout(model, spec.dropout)
    extend_embeddings(model, added or {})
    model, choice = _with_head(model, folder, spec, objective, base, absent)
    if spec.adapter is not None:
        fresh = frozenset() if spec.head else _fresh(model, absent.names)
        for name in fresh if storage else ():
            thaw(model.get_submodule(name))
        model = adapt(model, spec, objective.auto_class, added or {}, fresh)
    if spec.freeze is not None:
        freeze(model, spec.freeze)
        thaw_trained(model)
    return LoadedModel(model, choice)


def _check_vocabulary(model: Any, folder: ModelFolder, objective: Objective[Any], absent: Absent) -> None:
    """Raise NotFoundError for a vocabulary's head of another shape: it is no head of another task, to be replaced."""
    unfit = sorted(key for key in absent.mismatched if not key.startswith(body_prefix(model)))
    if objective.outputs is None and unfit:
        raise NotFoundError(
            f"model: {unfit[0]} of {folder.name} has another shape than config.json asks for; weights and config.json"
            " belong to different models",
            FaultPlace(field="model.uri", file=folder.name),
        )


def _with_head(
    model: Any,
    folder: ModelFolder,
    spec: ModelInput,
    objective: Objective[Any],
    base: BaseHead,
    absent: Absent,
) -> tuple[Any, HeadChoice]:
    """The model with the head of the base where it fits, else with a new one."""
    lacking = any(not key.startswith(body_prefix(model)) for key in absent.missing)
    choice = choose_head(base, objective, type(model).__name__, spec.head, lacking=lacking)
    if spec.initialize is Initialize.RANDOM:
        choice = HeadChoice(None, "model.initialize is Random")
    if spec.head is not None:
        assert objective.outputs is not None
        model = add_head(model, spec.head, objective.outputs, spec.dropout)
        if choice.order is not None:
            read_head(model, folder)
    elif choice.order is None and not lacking:  # what the folder lacks was drawn when it was loaded
        draw_again(model)
    if choice.order:
        reorder(model.head if spec.head else head_modules(model), choice.order)
        objective.begin(model)
    return model, choice


def least_memory(
    folder: ModelFolder,
    spec: ModelInput,
    objective: Objective[Any],
    training: TrainingSpec,
    shards: int = 1,
) -> Need:
    """What training needs on each of `shards` devices, from the configuration alone: no weight is read or allocated.

    A lower bound: without a new head, an adapter, added tokens, and layers that are unfrozen later. With tensor
    parallelism `shards` are the groups. Raises ConfigurationError for a model that these cannot divide.
    """
    from accelerate.utils import compute_module_sizes

    from finetune_trainer.models.frozen_weights import pack_empty, storage_of

    model = empty_model(folder, spec, objective)
    model.float()
    storage = storage_of(folder, spec, divided=training.divided)
    if storage is not None:
        pack_empty(model, spec, storage, extended=bool(spec.add_tokens))
    if spec.freeze is not None:
        freeze(model, spec.freeze)
    gradients = 0 if spec.adapter is not None else FLOAT32_BYTES * trained_parameters(model)
    optimizer = training.optimizer
    states = 2 if optimizer.name is OptimizerName.ADAMW else int(optimizer.momentum != 0)
    average = gradients if training.ema else 0
    buffers = sum(part.numel() * part.element_size() for part in model.buffers())  # ranks keep them whole
    parameters = compute_module_sizes(model)[""] - buffers
    if training.tensor_parallel > 1:
        plan, size = tensor_plan(model, training.tensor_parallel, folder.name), training.tensor_parallel
        parameters -= bytes_saved(model, plan, size, trained=False)
        less = bytes_saved(model, plan, size, trained=True) if gradients else 0
        gradients, average = gradients - less, max(0, average - less)
    divided = (gradients // shards, states * gradients // shards, average // shards)
    return Need(buffers + parameters // shards, *divided)


def empty_model(folder: ModelFolder, spec: ModelInput, objective: Objective[Any]) -> Any:
    """The model's modules without weights, from the configuration alone."""
    import torch
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights

    config = known_config(folder)
    _configure(config, spec, objective, None)
    with (
        _load_errors(folder, objective),
        torch.random.fork_rng(devices=[]),
        init_empty_weights(),
        no_init_weights(),
    ):
        model: Any = auto_class(spec, objective).from_config(config)
    model.tie_weights()  # accelerate gives every name a tensor of its own
    return model


@contextmanager
def _load_errors(folder: ModelFolder, objective: Objective[Any]) -> Iterator[None]:
    try:
        yield
    except LOAD_ERRORS as error:
        raise NotFoundError(
            f"model: {folder.name} cannot be loaded by {objective.auto_class}: {first_line(error)}",
            FaultPlace(field="model.uri", file=folder.name),
        ) from error


def auto_class(spec: ModelInput, objective: Objective[Any]) -> Any:
    """The class of transformers that reads the model."""
    import transformers

    return transformers.AutoModel if spec.head else getattr(transformers, objective.auto_class)


def known_config(folder: ModelFolder) -> Any:
    """config.json as it is in the folder."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder.path), local_files_only=True, trust_remote_code=False)
    except LOAD_ERRORS as error:
        raise NotFoundError(
            f"model: transformers does not know the model in {folder.name}: {first_line(error)}",
            FaultPlace(field="model.uri", file=folder.name),
        ) from error


def _configure(config: Any, spec: ModelInput, objective: Objective[Any], pad_id: int | None) -> None:
    """Put the labels, the padding and the dropout of this run into a model's configuration."""
    names = objective.output_names
    if names is not None:
        config.problem_type = objective.problem_type
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    fits = (pad_id or 0) < config.get_text_config().vocab_size  # else `check_fit` says so
    if fits and "roberta" not in config.model_type:  # its positions are counted from there
        config.pad_token_id = pad_id or 0
    for name in DROPOUTS:
        if spec.dropout is not None and hasattr(config, name):
            setattr(config, name, spec.dropout)


def _fresh(model: Any, absent: frozenset[str]) -> frozenset[str]:
    """The modules that the folder lacks tensors of: poolers in the body, and whole modules beside it."""
    inner = {key for key in absent if key.startswith(body_prefix(model))}
    poolers = {f"{key.partition('pooler.')[0]}pooler" for key in inner}
    return frozenset(poolers | {key.partition(".")[0] for key in absent - inner})


def _set_dropout(model: "torch.nn.Module", probability: float) -> None:
    from torch.nn import Dropout

    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = probability


def checkpoint_activations(model: Any, name: str) -> None:
    """Compute activations again in the backward pass, with the same dropout masks (Chen et al. 2016).

    Raises ConfigurationError where the architecture cannot.
    """
    try:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise ConfigurationError(
            f"training.activationCheckpointing: the architecture of {name} does not support it; remove it",
            FaultPlace(field="training.activationCheckpointing"),
        ) from error


def check_summary(model: Any, name: str) -> None:
    """Raise ConfigurationError for a head that would read padding: texts are padded on the right.

    No `summary_type` (XLNet, XLM, FlauBERT) looks at the mask, and only the first position is never padding.
    """
    for module in model.modules():
        kind = getattr(module, "summary_type", "first")
        if kind != "first":
            raise ConfigurationError(
                f"model: the head of {name} sums a text up by summary_type {kind!r} of its config.json, which reads the"
                " padding behind the shorter texts of a batch; set model.head: {}, which reads their tokens alone",
                FaultPlace(field="model.uri", file=name),
            )


def check_encoder(model: Any, name: str) -> None:
    """Raise ConfigurationError for an encoder that cannot have a custom head."""
    from finetune_trainer.layers.probes import why_not_headed

    reason = why_not_headed(model)
    if reason is not None:
        raise ConfigurationError(
            f"model.head: the encoder of {name}, {type(model.base_model).__name__}, does not take texts alone"
            f" ({reason}); remove model.head, or take another model",
            FaultPlace(field="model.head"),
        )
