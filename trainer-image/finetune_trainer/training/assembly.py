"""Puts a run together: device, model, tokens, optimizer, checkpoints."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch.distributed.device_mesh import DeviceMesh

from finetune_api.dataset import Packing
from finetune_api.model import Initialize
from finetune_api.run import FaultPlace
from finetune_api.status import EffectiveStatus
from finetune_api.training import Sharding
from finetune_trainer.checkpoints.store import CheckpointStore
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.data.learnable import check_learnable
from finetune_trainer.data.tokens import Examples
from finetune_trainer.data.truncation import report_truncation
from finetune_trainer.distributed import Ranks
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.layers.attention import use_fast_attention
from finetune_trainer.layers.dropout import use_fast_dropout
from finetune_trainer.layers.find import layers_of
from finetune_trainer.layers.first_token import narrow_last_layer
from finetune_trainer.layers.probes import why_not_packed, why_not_varlen
from finetune_trainer.layers.varlen import leave_varlen_attention, use_varlen_attention
from finetune_trainer.models.base_head import HeadChoice
from finetune_trainer.models.embeddings import check_fit
from finetune_trainer.models.freezing import unfrozen_later
from finetune_trainer.models.frozen_weights import (
    checkpoint_dtype,
    format_name,
    parameters_of,
    sentence,
    storage_of,
    weights_by_format,
)
from finetune_trainer.models.load import (
    check_encoder,
    check_summary,
    checkpoint_activations,
    least_memory,
    load_model,
)
from finetune_trainer.models.precision import resolve_precision
from finetune_trainer.models.slices import gathered
from finetune_trainer.models.tensor_plan import tensor_plan
from finetune_trainer.models.tokenizer import longest_input
from finetune_trainer.optimization.ema import MovingAverage, check_average_starts
from finetune_trainer.optimization.optimizer import build_optimizer, format_groups, groups_of
from finetune_trainer.optimization.schedules import why_too_short
from finetune_trainer.process.allocator import returning_freed_memory
from finetune_trainer.process.devices import (
    Compute,
    choose_compute,
    use_deterministic_algorithms,
)
from finetune_trainer.process.launch import Process
from finetune_trainer.process.memory import check_fits, memory_errors
from finetune_trainer.training.chat import Words, encoding, prepare_tokenizer
from finetune_trainer.training.checkpointing import CheckpointIO
from finetune_trainer.training.context import Run
from finetune_trainer.training.debug import Debug
from finetune_trainer.training.division import check_division, scores_of
from finetune_trainer.training.evaluator import Evaluator
from finetune_trainer.training.inputs import DEBUG_DIR, TOKENS, Inputs, stop_if_asked
from finetune_trainer.training.reference import reference_of
from finetune_trainer.training.task import Task
from finetune_trainer.training.teaching import read_teaching
from finetune_trainer.versions import versions

logger = logging.getLogger(__name__)

LABELS_REPORTED = 50
GROUPS_REPORTED = 40


@dataclass(frozen=True)
class Assembly:
    """A run, and what is needed after its training."""

    run: Run
    tokenizer: Any
    test: Examples | None
    forgetting: list[Examples]
    """Other rows, which are evaluated before and after training."""
    new_head: bool = False
    """Whether the head has random weights, which nothing has trained."""


def start_torch(inputs: Inputs, threads: int) -> Compute:
    """Choose the device and seed the generators."""
    config, process = inputs.config, inputs.process
    use_deterministic_algorithms(wanted=config.training.deterministic)
    compute = choose_compute(config.devices, config.training.precision, threads, process.local_rank)
    set_seed(config.training.seed)
    log_compute(compute, threads, process)
    return compute


def log_compute(compute: Compute, threads: int, process: Process) -> None:
    """Log what computes."""
    message = f"computing on {compute.name} in {compute.precision.value}"
    message += f" in {process.world_size} processes" if process.world_size > 1 else ""
    message += f" on {process.nodes} nodes" if process.nodes > 1 else ""
    logger.info(message + (f" with {threads} threads" if "cpu" in compute.name else ""))


def assemble(inputs: Inputs, compute: Compute, ranks: Ranks) -> Assembly:
    """Load the model, tokenize the rows, build the optimizer."""
    config = inputs.config
    model, words, head = build_model(inputs, compute, ranks.reading_mesh)
    tokenizer = words.tokenizer
    max_tokens = limit_tokens(config.dataset.preprocessing.max_length, longest_input(model, tokenizer))
    with gathered(model):
        packed_to = max_tokens if _packs(inputs, model, max_tokens, compute) else None
        compute = resolve_precision([lambda: model], compute, config.training.precision, "training.precision")
    parts = build_examples(inputs, model, words, max_tokens, packed_to)
    with memory_errors(model), returning_freed_memory():
        place(inputs, model, ranks, compute)
    model.train()
    stop_if_asked(inputs.stop)
    objective = inputs.dataset.objective
    task = Task(model, objective, compute, tokenizer.pad_token_id or 0)
    if packed_to is not None and compute.device.type == "cuda" and _by_varlen(task, packed_to):
        parts = [replace(part, varlen=True) for part in parts]
    if objective.needs_reference:
        reference, size = reference_of(inputs, task, ranks), config.training.micro_batch_size or 1
        with memory_errors(model):
            parts = [reference.added_to(part, size) for part in parts]
    train, validation, *others = parts
    test = others.pop(0) if inputs.dataset.test else None
    optimizer = build_optimizer(
        model,
        config.training.optimizer,
        config.model.layer_learning_rate_decay,
        unfrozen_later(model, config.model.freeze),
    )
    logger.info(f"parameter groups: {format_groups(groups_of(optimizer))}")
    ema = config.training.ema
    average = MovingAverage(model, optimizer, ema) if ema else None
    lesson = config.distillation
    if lesson:
        task = replace(task, teaching=read_teaching(lesson, train, objective))
    background = (
        compute.device.type == "cuda"
    )  # on a CPU the copy would take the memory that a run is sized by
    run = Run(
        task,
        Evaluator(task, ranks, inputs.stop),
        ranks,
        inputs.stop,
        optimizer,
        config.training,
        train,
        validation,
        CheckpointIO(_store(inputs, compute), model, optimizer, average, ranks, background),
        inputs.recorder,
        average,
        config.model.freeze,
        _debug(inputs, model, ranks),
    )
    check_average_starts(ema, run.total_steps)
    set_seed(config.training.seed + ranks.data_rank)
    _report_effective(inputs, run, head, max_tokens)
    random = head.order is None or config.model.initialize is Initialize.RANDOM
    return Assembly(run, tokenizer, test, others, new_head=objective.outputs is not None and random)


def place(inputs: Inputs, model: Any, ranks: Ranks, compute: Compute) -> None:
    """Move the model, or this rank's part, to the device. Raises ConfigurationError for one that cannot be divided."""
    if ranks.grid is None:
        ranks.place_model(model, layers_of(model), compute)
        return
    plan = tensor_plan(model, ranks.tensor, inputs.folder.name)
    with gathered(model):
        whole = scores_of(model, torch.device("cpu"))
    ranks.place_model(model, layers_of(model), compute, plan)
    check_division(model, whole, ranks, compute.device, inputs.folder.name)
    logger.info(f"{len(plan)} layers are divided over {ranks.tensor} GPUs by the plan of transformers")


def build_model(
    inputs: Inputs, compute: Compute, mesh: DeviceMesh | None = None
) -> tuple[Any, Words, HeadChoice]:
    """The model, not on its device yet, its tokenizer, and which head it has; with a `mesh`, this rank's part of it."""
    config, objective = inputs.config, inputs.dataset.objective
    words = prepare_tokenizer(config, inputs.folder, inputs.dataset)
    _check_memory(inputs, compute)
    storage = storage_of(inputs.folder, config.model, divided=config.training.divided)
    pad_id = words.tokenizer.pad_token_id
    with returning_freed_memory():
        mesh = None if storage else mesh  # the scales of a matrix in 4 bits are those of the whole
        loaded = load_model(inputs.folder, config.model, objective, pad_id, words.added, mesh, storage)
    model = loaded.model
    check_fit(model, words.tokenizer, inputs.folder.name)
    check_summary(model, inputs.folder.name)
    if config.training.activation_checkpointing:
        checkpoint_activations(model, inputs.folder.name)
    with gathered(model):
        if config.model.head is not None:
            check_encoder(model, inputs.folder.name)
        objective.check(model)
        objective.prepare(model)
    narrow_last_layer(model)
    if compute.device.type == "cpu":
        use_fast_dropout(model)
        use_fast_attention(model)
    return model, words, loaded.head


def _check_memory(inputs: Inputs, compute: Compute) -> None:
    """Log what training needs at least. Raises DeviceMemoryError before a weight is read where that cannot fit."""
    config = inputs.config
    groups = inputs.process.world_size // config.training.tensor_parallel
    shards = groups if config.training.sharding is Sharding.FULL else 1
    need = least_memory(inputs.folder, config.model, inputs.dataset.objective, config.training, shards)
    logger.info(f"device memory: at least {need}")
    check_fits(need, compute.device)


def _packs(inputs: Inputs, model: Any, max_tokens: int, compute: Compute) -> bool:
    """Whether texts share sequences. Raises ConfigurationError where they are asked to, and this model cannot."""
    packing = inputs.config.dataset.preprocessing.packing
    wanted = packing is Packing.ALWAYS or (packing is Packing.AUTO and compute.device.type == "cuda")
    if not wanted or inputs.config.objective.causal_lm is None:
        return False
    reason = why_not_packed(model, max_tokens)
    if reason is None:
        return True
    if packing is Packing.ALWAYS:
        place = FaultPlace(field="dataset.preprocessing.packing")
        raise ConfigurationError(
            f"dataset.preprocessing.packing: texts cannot share sequences: {reason}; set Auto", place
        )
    logger.info(f"texts do not share sequences: {reason}")
    return False


def _by_varlen(task: Task, longest: int) -> bool:
    """Whether texts that share sequences are kept apart by torch's kernels for GPUs, else by a mask; says why not."""
    if torch.are_deterministic_algorithms_enabled():
        reason: str | None = "training.deterministic is set"
    else:
        use_varlen_attention(task.model, longest)
        reason = why_not_varlen(task.model, task.forward, task.compute.device)
    if reason is None:
        logger.info("texts in one sequence are kept apart by varlen attention, without padding")
        return True
    leave_varlen_attention(task.model)
    logger.info(f"texts in one sequence are kept apart by a mask, as varlen attention cannot: {reason}")
    return False


def build_examples(
    inputs: Inputs, model: Any, words: Words, max_tokens: int, packed_to: int | None
) -> list[Examples]:
    """Training, validation and, where there are, test rows as tokens, in files beside the checkpoints.

    Raises DataError for rows that the model cannot learn.
    """
    dataset = inputs.dataset
    how = encoding(inputs.config, words, max_tokens)
    writes = inputs.process.rank == 0
    shared = inputs.config.output.token_dir
    folder = Path(shared) if shared else inputs.fence.folder / TOKENS
    cached = TokenCache(folder, lambda: stop_if_asked(inputs.stop), writes=writes, shared=shared is not None)
    with cached as cache:
        examples = [cache.examples(part, dataset.objective, how) for part in dataset.sources]
    evaluated = len(dataset.sources) - len(dataset.forgetting)
    named = dict(zip(("train", "validation", "test"), examples[:evaluated], strict=False))
    paired = not dataset.objective.looks_ahead
    report_truncation(named, max_tokens, dataset.word_labels, inputs.recorder, paired=paired)
    check_learnable(model, examples, headed=inputs.config.model.head is not None, paired=paired)
    if packed_to is None:
        return examples
    logger.info(f"texts share sequences of at most {packed_to} tokens, where none sees another")
    return [replace(part, packed_to=packed_to) for part in examples]


def limit_tokens(asked: int, able: int | None) -> int:
    """Tokens that texts are truncated to; logged where the model takes fewer than asked for."""
    if able is not None and able < asked:
        logger.info(
            f"texts are truncated to {able} tokens: the model takes no more than that (maxLength is {asked})"
        )
        return able
    return asked


def _store(inputs: Inputs, compute: Compute) -> CheckpointStore:
    """The checkpoints of this run, with what computes it now."""
    environment = versions() | {
        "device": compute.name,
        "threads": str(torch.get_num_threads()),
        "processes": str(inputs.process.world_size),
        "precision": compute.precision.value,
    }
    keep = inputs.config.training.checkpoint.keep
    return CheckpointStore(inputs.fence, inputs.fingerprint, environment, keep)


def _debug(inputs: Inputs, model: Any, ranks: Ranks) -> Debug | None:
    spec = inputs.config.training.debug
    return Debug(spec, model, inputs.fence.folder / DEBUG_DIR) if spec and ranks.is_main else None


def _report_effective(inputs: Inputs, run: Run, head: HeadChoice, max_tokens: int) -> None:
    config, task = inputs.config, run.task
    trainable = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    everything = parameters_of(task.model)
    random_start = config.model.initialize is Initialize.RANDOM
    how = "random weights" if random_start else "pretrained weights"
    logger.info(
        f"{type(task.model).__name__} with {how}: {trainable:,} of {everything:,} parameters are trained;"
        f" {run.total_steps} steps of {config.training.batch_size} examples"
    )
    drawn = head.order is None and not random_start
    if head.replaced or (
        drawn and task.objective.outputs is None
    ):  # a vocabulary's head is no part of a new task
        inputs.recorder.caveat(head.sentence)
    else:
        logger.info(head.sentence)
    too_short = why_too_short(config.training.schedule, run.total_steps)
    if too_short is not None:
        inputs.recorder.caveat(too_short)
    stored = torch.float32 if random_start else checkpoint_dtype(inputs.folder.path)
    parts = weights_by_format(task.model)
    logger.info(sentence(parts, stored))
    effective = EffectiveStatus(
        training=config.training,
        output_uri=config.output.uri,
        labels=task.objective.labels and task.objective.labels[:LABELS_REPORTED],
        device=task.compute.name,
        precision=task.compute.precision.value,
        checkpoint_weights=None if random_start else format_name(stored),
        weights=parts,
        micro_batch_size=config.training.micro_batch_size,
        max_length=max_tokens,
        head=head.sentence,
        total_steps=run.total_steps,
        parameter_groups=groups_of(run.optimizer)[:GROUPS_REPORTED],
        processes=run.ranks.world_size,
    )
    inputs.recorder.update(effective=effective)
