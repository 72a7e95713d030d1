"""What needs torch and the tokenizer: tokens, the model's shapes, the memory and the disk space that training needs."""

import logging
from typing import Any

from finetune_api.preflight import PreflightConfig
from finetune_api.status import (
    EffectiveStatus,
    PreflightDisk,
    PreflightFindings,
    PreflightMemory,
    ResolvedData,
    ResolvedStatus,
)
from finetune_trainer.data.batching import steps_per_epoch
from finetune_trainer.models.embeddings import check_fit
from finetune_trainer.models.freezing import trained_parameters
from finetune_trainer.models.frozen_weights import parameters_of
from finetune_trainer.models.load import check_summary, checkpoint_activations
from finetune_trainer.models.precision import published_dtype
from finetune_trainer.models.skeleton import skeleton
from finetune_trainer.models.tensor_plan import check_tensor_groups
from finetune_trainer.models.tokenizer import longest_input
from finetune_trainer.optimization.schedules import why_too_short
from finetune_trainer.preflight.disk import check_disk, estimate_disk
from finetune_trainer.preflight.duration import estimate_time
from finetune_trainer.preflight.head import check_forgetting
from finetune_trainer.preflight.memory import (
    check_memory,
    check_merged,
    described,
    estimate_memory,
    processes_of,
)
from finetune_trainer.preflight.precision import check_precision, precision_of
from finetune_trainer.process.memory import readable
from finetune_trainer.reporting.recorder import notes, with_caveats
from finetune_trainer.training.assembly import LABELS_REPORTED, build_examples, limit_tokens
from finetune_trainer.training.chat import prepare_tokenizer
from finetune_trainer.training.inputs import Inputs, stop_if_asked

logger = logging.getLogger(__name__)


def examine(config: PreflightConfig, inputs: Inputs, threads: int) -> tuple[PreflightFindings, str]:
    """What was found, and a sentence of it. Raises the errors of finetune_trainer.errors."""
    import torch

    torch.set_num_threads(threads)
    run, recorder, objective = inputs.config, inputs.recorder, inputs.dataset.objective
    if warning := check_precision(config):
        recorder.caveat(warning)
    precision = precision_of(config)
    words = prepare_tokenizer(run, inputs.folder, inputs.dataset)
    tokenizer = words.tokenizer
    model = skeleton(
        inputs.folder,
        run.model,
        objective,
        tokenizer.pad_token_id,
        words.added,
        divided=run.training.divided,
    )
    check_fit(model, tokenizer, inputs.folder.name)
    check_summary(model, inputs.folder.name)
    check_forgetting(run, inputs.folder, model, objective)
    check_tensor_groups(processes_of(run), run.training.tensor_parallel)
    if run.training.activation_checkpointing:
        checkpoint_activations(model, inputs.folder.name)
        model.gradient_checkpointing_disable()
    max_tokens = limit_tokens(run.dataset.preprocessing.max_length, longest_input(model, tokenizer))
    stop_if_asked(inputs.stop, " during preflight")
    train, *others = build_examples(inputs, model, words, max_tokens, None)
    memory = estimate_memory(run, model, objective, train, tokenizer.pad_token_id or 0, precision)
    logger.info(f"memory of each training process: {described(memory)}")
    if warning := check_memory(memory, config):
        recorder.caveat(warning)
    dtype = published_dtype(run.output.dtype, inputs.folder.path)
    check_merged(model, run.model, dtype, config.gpu_memory)
    steps = run.training.max_steps or (run.training.epochs or 1) * steps_per_epoch(
        len(train), run.training.batch_size
    )
    if too_short := why_too_short(run.training.schedule, steps):
        recorder.caveat(too_short)
    disk = estimate_disk(config, inputs, model, [train, *others])
    if warning := check_disk(disk, run):
        recorder.caveat(warning)
    _report_effective(inputs, max_tokens, steps)
    duration = estimate_time(config, model, train, steps, precision)
    logger.info(f"training takes about {duration.seconds} s: {duration.basis}")
    findings = _findings(inputs, model, memory, disk, steps).model_copy(update={"time": duration})
    return findings, _sentence(findings, recorder.caveats)


def _findings(
    inputs: Inputs, model: Any, memory: PreflightMemory, disk: PreflightDisk, steps: int
) -> PreflightFindings:
    resolved = inputs.recorder.report.resolved or ResolvedStatus()
    parts = [part for part in (resolved.train, resolved.validation, resolved.test) if part]
    train, labels = resolved.train or ResolvedData(), inputs.dataset.objective.labels
    return PreflightFindings(
        train_rows=len(inputs.dataset.train.rows),
        validation_rows=len(inputs.dataset.validation.rows),
        test_rows=len(inputs.dataset.test.rows) if inputs.dataset.test else None,
        invalid_rows=sum(part.invalid_rows or 0 for part in parts),
        duplicate_rows=sum(part.duplicate_rows or 0 for part in parts),
        leaked_rows=inputs.dataset.leaked_rows,
        labels=len(labels) if labels else None,
        tokens=train.tokens,
        truncated_share=round((train.truncated_tokens or 0) / train.tokens, 4) if train.tokens else None,
        total_steps=steps,
        parameters=parameters_of(model),
        trained_parameters=trained_parameters(model),
        memory=memory,
        disk=disk,
        warnings=notes(inputs.recorder.caveats),
    )


def _sentence(found: PreflightFindings, caveats: list[str]) -> str:
    rows = f"{found.train_rows:,} training and {found.validation_rows:,} validation rows"
    labels = f" with {found.labels} labels" if found.labels else ""
    size = f"{found.trained_parameters:,} of {found.parameters:,} parameters are trained in {found.total_steps:,} steps"
    assert found.memory
    known = found.memory.activations is not None
    need = f"{'about' if known else 'more than'} {readable(found.memory.total)} of memory"
    assert found.time
    takes = f"for about {_period(found.time.seconds)} ({found.time.basis})"
    return with_caveats(f"{rows}{labels}; {size}, with {need}, {takes}", caveats)


def _period(seconds: int) -> str:
    """In the unit that fits."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{round(seconds / length)} {unit}"
    return f"{max(1, seconds)} s"


def _report_effective(inputs: Inputs, max_tokens: int, steps: int) -> None:
    labels = inputs.dataset.objective.labels
    effective = EffectiveStatus(
        labels=labels and labels[:LABELS_REPORTED],
        max_length=max_tokens,
        total_steps=steps,
    )
    inputs.recorder.update(effective=effective)
