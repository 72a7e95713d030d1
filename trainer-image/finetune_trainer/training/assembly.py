"""Puts a run together once torch is there: device, model, tokens, optimizer."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune_api.dataset import Packing
from finetune_api.model import Initialize
from finetune_api.run import FaultPlace
from finetune_api.status import EffectiveStatus
from finetune_trainer.checkpoints.store import Checkpoints, Loaded
from finetune_trainer.data.learnable import check_learnable
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.layers.find import layers_of
from finetune_trainer.models.embeddings import add_tokens, check_fit
from finetune_trainer.models.load import check_encoder, check_summary, checkpoint_activations, load_model
from finetune_trainer.models.tokenizer import load_tokenizer, longest_input
from finetune_trainer.process.memory import memory_errors
from finetune_trainer.training.inputs import Inputs, stop_if_asked
from finetune_trainer.training.looks import debug_of
from finetune_trainer.training.state import TrainState

if TYPE_CHECKING:
    from finetune_trainer.data.tokens import Examples
    from finetune_trainer.distributed import Ranks
    from finetune_trainer.process.devices import Compute
    from finetune_trainer.training.context import Run

logger = logging.getLogger(__name__)

LABELS_REPORTED = 50
GROUPS_REPORTED = 40


def start_torch(inputs: Inputs, threads: int) -> "Compute":
    """Choose the device, and say what computes."""
    from finetune_trainer.process.devices import choose_compute, seed_everything, use_deterministic_algorithms

    config = inputs.config
    use_deterministic_algorithms(wanted=config.training.deterministic)
    process = inputs.process
    compute = choose_compute(config.devices, config.training.precision, threads, process.rank)
    seed_everything(config.training.seed)
    inputs.checkpoints.environment |= {
        "device": compute.name,
        "threads": str(threads),
        "processes": str(process.world_size),
    }
    told = f"computing on {compute.name} in {compute.precision.value}"
    told += f" in {process.world_size} processes" if process.world_size > 1 else ""
    logger.info(told + (f" with {threads} threads" if "cpu" in compute.name else ""))
    return compute


def assemble(inputs: Inputs, compute: "Compute", ranks: "Ranks") -> "tuple[Run, Any, Any]":
    """Load the model, tokenize the rows, build the optimizer; returns the run, the tokenizer and the test examples."""
    from finetune_trainer.checkpoints.snapshot import capture, restore
    from finetune_trainer.models.freezing import unfrozen_later
    from finetune_trainer.models.precision import fitting
    from finetune_trainer.optimization.optimizer import build_optimizer, format_groups, groups_of
    from finetune_trainer.process.devices import seed_everything
    from finetune_trainer.training.context import Run
    from finetune_trainer.training.evaluate import Judge

    config, recorder = inputs.config, inputs.recorder
    model, tokenizer = _model(inputs, compute)
    most = longest(config.dataset.preprocessing.max_length, longest_input(model, tokenizer))
    packed = _packs(inputs, model, most, compute)
    compute = fitting([lambda: model], compute, config.training.precision, "training.precision")
    inputs.checkpoints.environment["precision"] = compute.precision.value
    with memory_errors(model):
        ranks.place_model(model, layers_of(model), compute)
    model.train()
    stop_if_asked(inputs.stop)
    train, validation, *test = tokenize_all(inputs, tokenizer, most)
    check_learnable(model, [train, validation, *test], headed=config.model.head is not None)
    if packed:
        logger.info(f"texts share sequences of at most {most} tokens, where none sees another")
        train, validation, *test = (replace(part, packed_to=most) for part in (train, validation, *test))
    optimizer = build_optimizer(
        model,
        config.training.optimizer,
        config.model.layer_learning_rate_decay,
        unfrozen_later(model, config.model.freeze),
    )
    logger.info(f"parameter groups: {format_groups(groups_of(optimizer))}")
    checkpoints = inputs.checkpoints

    def save(state: TrainState) -> None:
        best, tensors = state.best.step if state.best else None, capture(model, optimizer, ranks)
        if ranks.is_main:
            checkpoints.save(state.step, tensors, state.to_json(), best)
        ranks.broadcast(None)  # none ends before the checkpoint is whole

    def restore_newest(before: int | None) -> TrainState | None:
        loaded = newest(checkpoints, ranks, before)
        if loaded is None:
            return None
        if ranks.is_main:
            checkpoints.drop_after(loaded.step)
        restore(loaded.tensors, model, optimizer, ranks)
        return TrainState.from_json(loaded.state)

    pad_id = tokenizer.pad_token_id or 0
    judge = Judge(model, inputs.dataset.objective, compute, pad_id, inputs.stop, ranks)
    training = Run(
        judge,
        optimizer,
        config.training,
        train,
        validation,
        save,
        restore_newest,
        recorder,
        config.model.freeze,
    )
    if ranks.is_main:
        training.debug = debug_of(config.training.debug, model, checkpoints.folder)
    seed_everything(config.training.seed + ranks.rank)
    _tell_effective(inputs, training, model)
    return training, tokenizer, test[0] if test else None


def _model(inputs: Inputs, compute: "Compute") -> tuple[Any, Any]:
    """The model, not on its device yet, and its tokenizer."""
    from finetune_trainer.layers.attention import use_fast_attention
    from finetune_trainer.layers.dropout import use_fast_dropout
    from finetune_trainer.layers.first_token import narrow_last_layer

    config, objective = inputs.config, inputs.dataset.objective
    tokenizer = load_tokenizer(inputs.folder, config.dataset.preprocessing.truncation.value.lower())
    added = add_tokens(tokenizer, config.model.add_tokens)
    model: Any = load_model(inputs.folder, config.model, objective, tokenizer.pad_token_id, added)
    check_fit(model, tokenizer, inputs.folder.name)
    check_summary(model, inputs.folder.name)
    if config.model.head is not None:
        check_encoder(model, inputs.folder.name)
    if config.training.activation_checkpointing:
        checkpoint_activations(model, inputs.folder.name)
    objective.check(model)
    objective.prepare(model)
    narrow_last_layer(model)
    if compute.device.type == "cpu":
        use_fast_dropout(model)
        use_fast_attention(model)
    return model, tokenizer


def _packs(inputs: Inputs, model: Any, most: int, compute: "Compute") -> bool:
    """Whether texts share sequences. Raises ConfigurationError where they are asked to, and this model cannot."""
    packing = inputs.config.dataset.preprocessing.packing
    wanted = packing is Packing.ALWAYS or (packing is Packing.AUTO and compute.device.type == "cuda")
    if not wanted or inputs.config.objective.causal_lm is None:
        return False
    from finetune_trainer.layers.probes import why_not_packed

    reason = why_not_packed(model, most)
    if reason is None:
        return True
    if packing is Packing.ALWAYS:
        place = FaultPlace(field="dataset.preprocessing.packing")
        raise ConfigurationError(
            f"dataset.preprocessing.packing: texts cannot share sequences: {reason}; set Auto", place
        )
    logger.info(f"texts do not share sequences: {reason}")
    return False


def tokenize_all(inputs: Inputs, tokenizer: Any, most: int) -> "list[Examples]":
    """Training, validation and, where there are, test rows as tokens, in files beside the checkpoints."""
    from finetune_trainer.data.cache import TokenCache
    from finetune_trainer.data.encoding import Encoding

    dataset, causal = inputs.dataset, inputs.config.objective.causal_lm
    how = Encoding(tokenizer, most, mask_prompt=causal.mask_prompt if causal else False)
    parts = [dataset.train, dataset.validation, *([dataset.test] if dataset.test else [])]
    writes = inputs.process.rank == 0
    with TokenCache(inputs.checkpoints.folder, lambda: stop_if_asked(inputs.stop), writes) as cache:
        return [cache.examples(part, dataset.objective, how) for part in parts]


def longest(asked: int, able: int | None) -> int:
    """To how many tokens texts are cut; says so where the model takes fewer than asked for."""
    if able is not None and able < asked:
        logger.info(
            f"texts are cut to {able} tokens: the model takes no more than that (maxLength is {asked})"
        )
        return able
    return asked


def _tell_effective(inputs: Inputs, training: "Run", model: Any) -> None:
    from finetune_trainer.optimization.optimizer import groups_of

    config, judge = inputs.config, training.judge
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    how = "random weights" if config.model.initialize is Initialize.RANDOM else "pretrained weights"
    logger.info(
        f"{type(model).__name__} with {how}: {trainable:,} of {everything:,} parameters are trained;"
        f" {training.total_steps} steps of {config.training.batch_size} examples"
    )
    effective = EffectiveStatus(
        training=config.training,
        output_uri=config.output.uri,
        labels=judge.objective.labels and judge.objective.labels[:LABELS_REPORTED],
        device=judge.compute.name,
        precision=judge.compute.precision.value,
        micro_batch_size=config.training.micro_batch_size,
        total_steps=training.total_steps,
        parameter_groups=groups_of(training.optimizer)[:GROUPS_REPORTED],
        processes=judge.ranks.world_size,
    )
    inputs.recorder.update(effective=effective)


def newest(checkpoints: Checkpoints, ranks: "Ranks", before: int | None = None) -> Loaded | None:
    """The newest whole checkpoint, or the newest before a step, as rank 0 found it."""
    loaded = checkpoints.newest(before) if ranks.is_main else None
    step = ranks.broadcast(loaded.step if loaded else None)
    return loaded if loaded or step is None else checkpoints.load(step)
