"""From checked members and rows to the published combination: tokenize, score, publish."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from finetune_api.combine import CombineConfig
from finetune_api.run import RunReport
from finetune_api.status import EffectiveStatus
from finetune_trainer.combine.combiners import Parts
from finetune_trainer.combine.content import Combined
from finetune_trainer.combine.members import Member
from finetune_trainer.combine.rows import NOTHING_PUBLISHED, objective_of
from finetune_trainer.combine.scoring import Setting, format_metrics, load, score
from finetune_trainer.data.sources import Source
from finetune_trainer.data.tokens import tokenize
from finetune_trainer.models.precision import resolve_precision
from finetune_trainer.models.tokenizer import load_tokenizer, longest_input
from finetune_trainer.process.devices import Compute, choose_compute
from finetune_trainer.process.stop import Stop
from finetune_trainer.publishing.folder import publish
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.training.assembly import LABELS_REPORTED, limit_tokens, log_compute
from finetune_trainer.training.inputs import clear_beside, stop_if_asked

logger = logging.getLogger(__name__)


def score_and_publish(
    config: CombineConfig,
    members: list[Member],
    sources: dict[str, Source],
    recorder: Recorder,
    stop: Stop,
    threads: int,
) -> RunReport:
    """Score members and combination on the rows, and publish; returns the final report."""
    compute = choose_compute(config.devices, config.precision, threads)
    log_compute(compute, threads)
    tokenizer: Any = load_tokenizer(members[0].folder, config.dataset.preprocessing.truncation.value.lower())
    objective = objective_of(config, members[0])
    setting = Setting(config, objective, compute, tokenizer.pad_token_id or 0, stop)
    setting = in_common_precision(setting, members)
    able = longest_of_all(members, tokenizer)
    max_tokens = limit_tokens(config.dataset.preprocessing.max_length, able)
    report_effective(config, members[0], setting.compute, max_tokens, recorder)
    parts = tokenize_all(setting, sources, max_tokens, tokenizer)
    scored = score(setting, members, parts, recorder)
    stop_if_asked(stop, NOTHING_PUBLISHED)
    message = f"combined {len(members)} models by {config.combine}: {format_metrics(scored.metrics)}"
    recorder.update(message=recorder.with_caveats(message))  # which is published with the model
    model = publish(config, Combined(config, members, scored, tokenizer), recorder.report)
    clear_beside(Path(config.output.staging_dir), config)
    logger.info(f"the model is in {model.uri} ({model.files} files, {model.size_bytes} bytes)")
    return recorder.report.model_copy(update={"model": model})


def in_common_precision(setting: Setting, members: list[Member]) -> Setting:
    """The setting in a number format that a member of every architecture can be computed in."""
    different = {member.config.get("model_type"): member for member in members}.values()
    loaders = [partial(_model, member, setting) for member in different]
    compute = resolve_precision(loaders, setting.compute, setting.config.precision, "precision")
    return replace(setting, compute=compute)


def _model(member: Member, setting: Setting) -> Any:
    return load(member, setting).model


def report_effective(
    config: CombineConfig, first: Member, compute: Compute, max_tokens: int, recorder: Recorder
) -> None:
    """Report what was chosen, and the labels that all members have as the first has."""
    labels = first.outputs if config.objective.kind != "regression" else None
    effective = EffectiveStatus(
        output_uri=config.output.uri,
        labels=labels and labels[:LABELS_REPORTED],
        device=compute.name,
        precision=compute.precision.value,
        max_length=max_tokens,
    )
    recorder.update(effective=effective)


def tokenize_all(setting: Setting, sources: dict[str, Source], max_tokens: int, tokenizer: Any) -> Parts:
    """The rows as tokens, the same for all members."""
    causal = setting.config.objective.causal_lm
    mask_prompt = causal.mask_prompt if causal else False
    return {
        part: tokenize(source, setting.objective, tokenizer, max_tokens, mask_prompt=mask_prompt)
        for part, source in sources.items()
    }


def longest_of_all(members: list[Member], tokenizer: Any) -> int | None:
    """The most tokens that every member takes, asked of models without weights; None where none says."""
    limits = []
    for member in members:
        config = AutoConfig.from_pretrained(str(member.folder.path), local_files_only=True)
        with torch.device("meta"):
            limits.append(longest_input(AutoModel.from_config(config), tokenizer))
    return min((limit for limit in limits if limit is not None), default=None)
