"""From checked members and rows to the published combination: tokenize, score, publish."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from finetune_api.combine import SOUPS, CombineConfig
from finetune_api.run import RunReport
from finetune_api.status import EffectiveStatus, Published
from finetune_trainer.combine.comparison import missing, sentence
from finetune_trainer.combine.content import BestMember, Combined
from finetune_trainer.combine.members import Member
from finetune_trainer.combine.rows import NOTHING_PUBLISHED, PREFIXES, objective_of
from finetune_trainer.combine.scoring import Scored, Setting, load, score
from finetune_trainer.data.chat.encode import chat_encoding
from finetune_trainer.data.sources import Source
from finetune_trainer.data.tokens import Examples, tokenize
from finetune_trainer.models.precision import resolve_precision
from finetune_trainer.models.tokenizer import load_tokenizer, longest_input
from finetune_trainer.process.devices import Compute, choose_compute
from finetune_trainer.process.launch import Process
from finetune_trainer.process.stop import Stop
from finetune_trainer.publishing.folder import Publishable, publish
from finetune_trainer.publishing.gate import check_gate
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.training.assembly import LABELS_REPORTED, limit_tokens, log_compute
from finetune_trainer.training.inputs import stop_if_asked

logger = logging.getLogger(__name__)


def score_and_publish(
    config: CombineConfig,
    members: list[Member],
    student: Member | None,
    sources: dict[str, Source],
    recorder: Recorder,
    stop: Stop,
    threads: int,
) -> RunReport:
    """Score members and combination on the rows, and publish; returns the final report."""
    tokenizer: Any = load_tokenizer(members[0].folder, config.dataset.preprocessing.truncation.value.lower())
    everyone = [*members, student] if student else members
    setting = setting_of(config, everyone, tokenizer, stop, threads)
    able = longest_of_all([member.folder.path for member in everyone], tokenizer)
    max_tokens = limit_tokens(config.dataset.preprocessing.max_length, able)
    report_effective(config, members[0], setting.compute, max_tokens, recorder)
    tokens = partial(_tokenized, setting, max_tokens, tokenizer)
    parts = {prefix: tokens(sources[part]) for part, prefix in PREFIXES.items() if part in sources}
    estimates = config.combine in SOUPS and any(member.has_batch_norm for member in members)
    train = tokens(sources["train"]) if estimates else None
    scored = score(setting, members, student, parts, train, recorder)
    stop_if_asked(stop, NOTHING_PUBLISHED)
    if config.gate is not None:
        check_gate(config.gate, scored.published_metrics, None)
    recorder.update(
        message=recorder.with_caveats(_message(config, members, scored))
    )  # is published with the model
    model = publish(config, _published(config, members, scored, tokenizer), recorder.report)
    logger.info(f"the model is in {model.uri} ({model.files} files, {model.size_bytes} bytes)")
    return recorder.report.model_copy(update={"model": model})


def _published(config: CombineConfig, members: list[Member], scored: Scored, tokenizer: Any) -> Publishable:
    if scored.comparison.published is Published.COMBINATION:
        return Combined(config, members, scored, tokenizer)
    assert scored.best is not None
    return BestMember(config, members, scored, scored.best)


def _message(config: CombineConfig, members: list[Member], scored: Scored) -> str:
    """What was found and published, in at most three sentences."""
    parts = [sentence(scored.comparison)]
    if scored.comparison.published is Published.BEST_MEMBER:
        assert scored.best is not None
        parts.append(f"that is not better, so the best member is published: {members[scored.best].name}")
    return "; ".join([*parts, *([missing(config)] if config.missing else [])])


def setting_of(
    config: CombineConfig, members: list[Member], tokenizer: Any, stop: Stop, threads: int
) -> Setting:
    """How models are computed alike on the device of this process."""
    compute = choose_compute(config.devices, config.precision, threads)
    log_compute(compute, threads, Process())
    setting = Setting(config, objective_of(config, members[0]), compute, tokenizer.pad_token_id or 0, stop)
    return in_common_precision(setting, members)


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
    """Report what was chosen beside what is known of a student, and the labels that all have as the first has."""
    labels = first.outputs if config.objective.kind != "regression" else None
    chosen = {
        "output_uri": config.output.uri,
        "labels": labels and labels[:LABELS_REPORTED],
        "device": compute.name,
        "precision": compute.precision.value,
        "max_length": max_tokens,
    }
    recorder.update(effective=(recorder.report.effective or EffectiveStatus()).model_copy(update=chosen))


def _tokenized(setting: Setting, max_tokens: int, tokenizer: Any, source: Source) -> Examples:
    """Rows as tokens, the same for all members."""
    causal = setting.config.objective.causal_lm
    if causal is None:
        return tokenize(source, setting.objective, tokenizer, max_tokens, mask_prompt=False)
    own = causal.model_copy(update={"chat_template": None})  # the members' tokenizer has the template
    chat = chat_encoding(tokenizer, own) if source.chat else None
    return tokenize(source, setting.objective, tokenizer, max_tokens, causal.mask_prompt, chat)


def longest_of_all(folders: list[Path], tokenizer: Any) -> int | None:
    """The most tokens that the models of all folders take, asked of ones without weights; None where none says."""
    limits = []
    for folder in folders:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        with torch.device("meta"):
            limits.append(longest_input(AutoModel.from_config(config), tokenizer))
    return min((limit for limit in limits if limit is not None), default=None)
