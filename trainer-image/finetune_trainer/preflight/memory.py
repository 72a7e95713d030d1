"""The memory that training needs: weights, gradients and state of the optimizer by counting, activations by a forward
pass that computes shapes only and sums up what autograd keeps of it for the backward pass."""

import logging
from typing import Any

import numpy as np
import torch

from finetune_api.preflight import PreflightConfig
from finetune_api.run import FaultPlace, ModelInput, RunConfig
from finetune_api.status import PreflightMemory
from finetune_api.training import OptimizerName, Precision, Sharding, TrainingSpec
from finetune_trainer.data.collation import collate
from finetune_trainer.data.tokens import Examples
from finetune_trainer.errors import DeviceMemoryError
from finetune_trainer.layers.attention import use_attention_for_shapes
from finetune_trainer.layers.find import layers_of
from finetune_trainer.layers.first_token import narrow_last_layer
from finetune_trainer.models.adapters import merges
from finetune_trainer.models.frozen_weights import parameters_of
from finetune_trainer.models.skeleton import as_if_on_cpu
from finetune_trainer.models.tensor_plan import bytes_saved, tensor_plan
from finetune_trainer.objectives import Objective
from finetune_trainer.objectives.language_model import LanguageModel
from finetune_trainer.preflight.language import body_of, computed_at_once, scores_of
from finetune_trainer.process.memory import readable

logger = logging.getLogger(__name__)

UNKNOWN = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, IndexError)
"""By which a model ends that looks at values, which a forward pass without weights does not have."""
_SCORES_AT_ONCE = 2
"""The softmax of all scores and their gradient, in float32; autograd keeps the scores."""


def estimate_memory(
    config: RunConfig,
    model: Any,
    objective: Objective[Any],
    train: Examples,
    pad_id: int,
    precision: Precision,
) -> PreflightMemory:
    """Of each training process, at the micro-batch size that it begins with; `model` is a skeleton.

    Activations are those of one that computes alone: of a tensor group each rank keeps less.
    """
    parameters = list(model.parameters())
    trained = sum(_bytes(one) for one in parameters if one.requires_grad)
    states = optimizer_states(config.training)
    size = config.training.tensor_parallel
    shards = processes_of(config) // size if config.training.sharding is Sharding.FULL else 1
    weights, buffers = sum(map(_bytes, parameters)), sum(map(_bytes, model.buffers()))
    if size > 1:
        plan = tensor_plan(model, size, config.model.uri or config.model.path)
        weights -= bytes_saved(model, plan, size, trained=False)
        trained -= bytes_saved(model, plan, size, trained=True)
    rows_at_once = min(config.training.micro_batch_size or 1, config.training.batch_size, len(train))
    rows = np.argsort(train.lengths, kind="stable")[::-1][:rows_at_once]
    activations = _activations(config, model, objective, train, rows, pad_id, precision)
    parts = {
        "weights": weights // shards + buffers,
        "gradients": trained // shards,
        "optimizer": states * trained // shards,
        "average": trained // shards if config.training.ema else None,
        "activations": activations,
    }
    return PreflightMemory(
        **parts,
        total=sum(part or 0 for part in parts.values()),
        micro_batch_size=rows_at_once,
        longest=int(train.lengths[rows[0]]),
    )


def optimizer_states(training: TrainingSpec) -> int:
    """Numbers that the optimizer keeps for each trained weight: two moments of AdamW, momentum of SGD."""
    optimizer = training.optimizer
    return 2 if optimizer.name is OptimizerName.ADAMW else int(optimizer.momentum != 0)


def processes_of(config: RunConfig) -> int:
    """World size."""
    return max(1, config.devices.gpus) * (config.nodes.count if config.nodes else 1)


def check_memory(need: PreflightMemory, config: PreflightConfig) -> str | None:
    """A warning where the estimate does not fit a GPU. Raises DeviceMemoryError where not even the weights can."""
    gpu_memory, smallest = config.gpu_memory, config.least_gpu_memory
    if gpu_memory is None:
        return None
    least = need.total - (need.activations or 0)
    if least > gpu_memory:
        raise DeviceMemoryError(
            f"the model cannot be trained on GPUs of {readable(gpu_memory)}: it needs {described(need)} on each; freeze"
            " more of the model, train an adapter (model.adapter), shard it over more GPUs (training.sharding: Full),"
            f" or ask for larger GPUs{_by_labels(config)}",
            FaultPlace(field="model"),
        )
    if smallest is not None and smallest < least <= gpu_memory:
        return (
            f"the GPUs of some nodes have {readable(smallest)}, too few for {described(need)}; choose the others with"
            " scheduling.nodeSelector"
        )
    if need.total <= gpu_memory:
        return None
    one = least + (need.activations or 0) // (need.micro_batch_size or 1)
    so = (
        "one row may not fit; lower dataset.preprocessing.maxLength, or set training.activationCheckpointing: true"
        if one > gpu_memory
        else "training will halve the micro-batch until it fits"
    )
    return f"the estimate of {described(need)} is more than the {readable(gpu_memory)} of a GPU: {so}"


def _by_labels(config: PreflightConfig) -> str:
    """How the memory is known, where nobody has set it."""
    if config.gpu_nodes is None:
        return ""
    nodes = "the node" if config.gpu_nodes == 1 else f"the {config.gpu_nodes} nodes"
    return (
        f" (by the labels of {nodes} that the job may run on; where an autoscaler would add larger ones, name their"
        " labels in scheduling.nodeSelector)"
    )


def check_merged(model: Any, spec: ModelInput, dtype: torch.dtype, gpu_memory: int | None) -> None:
    """Raise DeviceMemoryError where the merged model, which is evaluated before it is published, does not fit a GPU."""
    size = parameters_of(model) * dtype.itemsize
    if gpu_memory is not None and merges(spec) and size > gpu_memory:
        field = "model.adapter.lora.merge"
        raise DeviceMemoryError(
            f"{field}: the merged model needs {readable(size)}, and the GPUs have {readable(gpu_memory)}; set {field}:"
            " false to publish the adapter alone, or ask for larger GPUs",
            FaultPlace(field=field),
        )


def described(need: PreflightMemory) -> str:
    """The estimate with its parts, as part of a sentence."""
    parts = [
        (need.weights, "weights"),
        (need.gradients, "gradients"),
        (need.optimizer, "optimizer state"),
        (need.average, "moving average"),
        (need.activations, f"activations of {need.micro_batch_size} rows of {need.longest} tokens"),
    ]
    summands = " + ".join(f"{readable(size)} {name}" for size, name in parts if size)
    unknown = "" if need.activations is not None else ", and activations"
    return f"{readable(need.total)} ({summands}){unknown}"


def _bytes(tensor: torch.Tensor) -> int:
    return int(tensor.numel() * tensor.element_size())


def _storage(tensor: torch.Tensor) -> int:
    """What identifies the memory of a tensor: several views share it."""
    return int(tensor.untyped_storage()._cdata)


def _activations(
    config: RunConfig,
    model: Any,
    objective: Objective[Any],
    train: Examples,
    rows: Any,
    pad_id: int,
    precision: Precision,
) -> int | None:
    """Bytes that autograd keeps of the forward pass of these rows; None for a model that looks at values."""
    narrow_last_layer(model)
    use_attention_for_shapes(model, fused=config.devices.on_gpu)
    model.train()
    mode = as_if_on_cpu(model)
    inputs, targets = collate(train, rows, pad_id)
    positions, body = 0, body_of(model, objective)
    if isinstance(objective, LanguageModel):
        inputs, positions = computed_at_once(objective, inputs, targets)
    own = {_storage(one) for one in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (of := _storage(tensor)) not in own:
            kept.setdefault(of, tensor)  # which also keeps the address from being given to another one
        return tensor

    half = precision is Precision.BFLOAT16
    last_layer = 0
    try:
        with (
            mode,
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            given = {name: mode.from_tensor(tensor) for name, tensor in inputs.items()}
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                outputs = (model if body is None else body)(**given)
            if body is not None:
                last_layer = scores_of(model, outputs.last_hidden_state, positions)
            elif isinstance(objective, LanguageModel):
                last_layer = _SCORES_AT_ONCE * outputs.logits.numel() * 4
            else:
                objective.loss(outputs.logits.float(), mode.from_tensor(targets))
    except UNKNOWN as error:
        reason = str(error).partition("\n")[0][:200]
        logger.info(f"the memory of activations is not estimated: {type(error).__name__}: {reason}")
        return None
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    layers = len(layers_of(model)) if config.training.activation_checkpointing else 0
    return last_layer + (found if layers < 2 else _checkpointed(found, layers, model, given["input_ids"]))


def _checkpointed(found: int, layers: int, model: Any, ids: torch.Tensor) -> int:
    """Of each layer only its input, and what one layer keeps while it is computed again (Chen et al. 2016)."""
    width = int(model.get_input_embeddings().weight.shape[-1])
    return found // layers + layers * int(ids.numel()) * width * 4
