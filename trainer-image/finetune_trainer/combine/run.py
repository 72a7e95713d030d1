"""One combination from CombineConfig to RunReport: members, rows, scores, folder.

What needs no torch comes first, so that members that do not fit are told within a second or two."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.combine import CombineConfig
from finetune_api.run import RunReport
from finetune_api.status import EffectiveStatus, ResolvedStatus
from finetune_trainer.combine.members import Member, read_members
from finetune_trainer.combine.rows import PREFIXES, objective_of, read_rows
from finetune_trainer.data.sources import Source
from finetune_trainer.hub.fetch import fetch_rows
from finetune_trainer.models.tokenizer import load_tokenizer, longest_input
from finetune_trainer.process.stop import Stop
from finetune_trainer.publishing.folder import publish, published
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.training.assembly import LABELS_REPORTED, longest
from finetune_trainer.training.inputs import clear_beside, stop_if_asked

if TYPE_CHECKING:
    from finetune_trainer.combine.combiners import Parts
    from finetune_trainer.process.devices import Compute

logger = logging.getLogger(__name__)


def combine(config: CombineConfig, recorder: Recorder, stop: Stop, threads: int) -> RunReport:
    """Combine and publish, or find that an earlier attempt already did; returns the final report.

    Raises the errors of finetune_trainer.errors.
    """
    done = published(config)
    if done is not None:
        logger.info(f"the model is already published in {done.model and done.model.uri}; nothing to combine")
        return done
    config = fetch_rows(config, stop)
    members = read_members(config)
    logger.info(f"{len(members)} members, whole and fit for each other")
    sources = read_rows(config, members[0], lambda: stop_if_asked(stop, "; nothing was published"))
    resolved = {part: sources[prefix].resolved for part, prefix in PREFIXES.items() if prefix in sources}
    recorder.update(resolved=ResolvedStatus(**resolved))
    compute = start_torch(config, threads)
    from finetune_trainer.combine.content import Combined
    from finetune_trainer.combine.scoring import in_fitting_precision, score, told
    from finetune_trainer.training.evaluate import Judge

    tokenizer: Any = load_tokenizer(members[0].folder, config.dataset.preprocessing.truncation.value.lower())
    panel = Judge(None, objective_of(config, members[0]), compute, tokenizer.pad_token_id or 0, stop)
    panel = in_fitting_precision(config, members, panel)
    tell_effective(config, members[0], panel.compute, recorder)
    parts = tokenize_all(config, sources, members, tokenizer, panel.objective)
    scored = score(config, members, parts, panel, recorder)
    stop_if_asked(stop, "; nothing was published")
    message = f"combined {len(members)} models by {config.combine}: {told(scored.metrics)}"
    recorder.update(message=recorder.with_caveats(message))  # which is published with the model
    model = publish(config, Combined(config, members, scored, tokenizer), recorder.report)
    clear_beside(Path(config.output.staging_dir), config)
    logger.info(f"the model is in {model.uri} ({model.files} files, {model.size_bytes} bytes)")
    return recorder.report.model_copy(update={"model": model})


def start_torch(config: CombineConfig, threads: int) -> "Compute":
    """Choose the device, and say what computes."""
    from finetune_trainer.process.devices import choose_compute

    compute = choose_compute(config.devices, config.precision, threads)
    logger.info(f"computing on {compute.name} in {compute.precision.value}")
    return compute


def tell_effective(config: CombineConfig, first: Member, compute: "Compute", recorder: Recorder) -> None:
    """Report what was chosen, and the labels that all members have as the first has."""
    labels = first.outputs if config.objective.kind != "regression" else None
    effective = EffectiveStatus(
        output_uri=config.output.uri,
        labels=labels and labels[:LABELS_REPORTED],
        device=compute.name,
        precision=compute.precision.value,
    )
    recorder.update(effective=effective)


def tokenize_all(
    config: CombineConfig,
    sources: dict[str, Source],
    members: list[Member],
    tokenizer: Any,
    objective: Any,
) -> "Parts":
    """The rows as tokens, the same for all members, cut to what each of them takes."""
    from finetune_trainer.data.tokens import tokenize

    able = longest_of_all(members, tokenizer)
    most = longest(config.dataset.preprocessing.max_length, able)
    causal = config.objective.causal_lm
    hidden = causal.mask_prompt if causal else False
    return {
        part: tokenize(source, objective, tokenizer, most, mask_prompt=hidden)
        for part, source in sources.items()
    }


def longest_of_all(members: list[Member], tokenizer: Any) -> int | None:
    """The most tokens that every member takes, asked of models without weights; None where none says."""
    import torch
    from transformers import AutoConfig, AutoModel

    limits = []
    for member in members:
        config = AutoConfig.from_pretrained(str(member.folder.path), local_files_only=True)
        with torch.device("meta"):
            limits.append(longest_input(AutoModel.from_config(config), tokenizer))
    return min((limit for limit in limits if limit is not None), default=None)
