"""Writes the model card, README.md of the model's folder. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune_api.model import LESS_THAN_FLOAT32, FrozenWeights
from finetune_api.run import RunConfig, RunReport
from finetune_api.status import BaselineKind, EpochStatus, Metrics, ResolvedData, WeightsStatus
from finetune_api.uris import is_hub, parse_hub
from finetune_trainer.publishing.snippets import PIPELINES, snippet
from finetune_trainer.versions import versions

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


@dataclass(frozen=True)
class Sample:
    """What a language model writes for a prompt, before and after training."""

    prompt: str
    before: str
    after: str


def model_card(
    config: RunConfig,
    report: RunReport,
    choice: str = "",
    conversion: str | None = None,
    samples: Sequence[Sample] = (),
) -> str:
    """Markdown with the front matter that hubs read.

    `choice` says which weights were published with training.ema, `conversion` what changed them after training.
    """
    model, train = report.model, report.resolved and report.resolved.train
    assert model is not None
    matter = front_matter(
        config.job.name,
        config.objective.kind,
        model.metrics,
        train.uri if train else None,
        library="peft" if model.format == "peft" else "transformers",
        base=model.base_model or config.model.path,
    )
    body = [*_body(config, report, choice, conversion), *_samples(samples)]
    return "\n".join([*matter, "", *body, ""])


def front_matter(
    name: str,
    kind: str,
    metrics: Metrics,
    data: str | None,
    *,
    library: str = "transformers",
    base: str | None = None,
    tags: tuple[str, ...] = (),
) -> list[str]:
    """What model hubs read, as lines: with the metrics, which the Hugging Face Hub shows beside the model."""
    from huggingface_hub import ModelCardData

    written = ModelCardData(
        model_name=name,
        library_name=library,
        pipeline_tag=PIPELINES[kind],
        base_model=parse_hub(base).repository if base and is_hub(base) else base,
        tags=["finetune-operator", kind, *tags],
        eval_results=_results(kind, metrics, data or "a local file") or None,
    )
    return ["---", *written.to_yaml().splitlines(), "---"]


def _results(kind: str, metrics: Metrics, data: str) -> "list[EvalResult]":
    """One of every metric of the published model, on its split."""
    from huggingface_hub import EvalResult

    name = parse_hub(data).repository if is_hub(data) else data
    splits = {"eval": "validation", "test": "test"}
    found = []
    for key, value in metrics.items():
        prefix, _, metric = key.partition("_")
        if prefix in splits:
            found.append(
                EvalResult(
                    task_type=PIPELINES[kind],
                    dataset_type=name,
                    dataset_name=name,
                    dataset_split=splits[prefix],
                    metric_type=metric,
                    metric_name=key,
                    metric_value=value,
                )
            )
    return found


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table as lines."""
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def format_versions() -> str:
    """The versions of all that decides the numbers."""
    return ", ".join(f"{name} {number}" for name, number in versions().items())


def _body(config: RunConfig, report: RunReport, choice: str, conversion: str | None) -> list[str]:
    model, effective = report.model, report.effective
    assert model is not None
    assert effective is not None
    start = f"random weights with the architecture of `{model.base_model}`"
    origin = _origin(config, report) if config.model.initialize == "Pretrained" else start
    lines = [
        f"# {config.job.name}",
        "",
        f"Fine-tuned from {origin} for {config.objective.kind.replace('_', ' ')}"
        f" by the FineTuneJob `{config.job.namespace}/{config.job.name}`.",
        "",
        "## Use",
        "",
        snippet(
            model.format,
            config.objective,
            config.dataset,
            config.model.uri or config.model.path,
            effective.max_length,
            chat=bool(report.resolved and report.resolved.train and report.resolved.train.read_as),
            four_bits=config.model.weights is FrozenWeights.NF4,
        ),
        "",
        "## Results",
        "",
        *table(["metric", "value"], [[name, f"{value:.4f}"] for name, value in model.metrics.items()]),
        "",
        "`eval_` is measured on the validation rows, `test_` on the test rows.",
        *_gained(report),
        *([f"{choice[0].upper()}{choice[1:]}."] if choice else []),
        *([f"They are those of the published weights: {conversion}."] if conversion else []),
        *_on_fewer_bits(config, model.format),
        "",
        "![learning curve](learning-curve.png)",
        "",
        *_evaluations(report.epochs),
        *_stopped(report),
        "## Training",
        "",
        f"- device: {effective.device}, precision {effective.precision}; weights in {model.dtype}",
        *_weights(effective.weights, effective.checkpoint_weights),
        f"- optimizer steps: {report.progress.step if report.progress else 0} of {effective.total_steps} planned",
        *_labels(effective.labels),
        *([f"- head: {effective.head}"] if effective.head else []),
        *_data(report),
        f"- versions: {format_versions()}",
        "",
        "The whole configuration is in `run.json`, every logged number in `metrics.jsonl`; `sha256sum -c SHA256SUMS`"
        " checks the files.",
    ]
    if effective.device and "simulated" in effective.device:
        lines += ["", "**The GPUs of this run were simulated: everything was computed on a CPU.**"]
    return lines


def _origin(config: RunConfig, report: RunReport) -> str:
    """The model that training started from."""
    read = report.resolved.model if report.resolved else None
    if read is not None and read.merged_into is not None:
        return (
            f"the adapter `{config.model.uri or config.model.path}` merged into the base `{read.merged_into}`"
        )
    return f"`{report.model and report.model.base_model}`"


def _evaluations(epochs: list[EpochStatus]) -> list[str]:
    if not epochs:
        return []
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch.metrics))
    averaged = any(epoch.weights for epoch in epochs)
    header = ["epoch", "step", "training loss", "validation loss", *names, *(["weights"] * averaged)]
    rows = [
        [epoch.epoch, epoch.step, epoch.train_loss, epoch.eval_loss, *(epoch.metrics.get(n) for n in names)]
        for epoch in epochs
    ]
    cells = [["–" if cell is None else f"{cell:g}" for cell in row] for row in rows]
    if averaged:
        cells = [[*row, str(epoch.weights)] for row, epoch in zip(cells, epochs, strict=True)]
    return [*table(header, cells), ""]


def _samples(samples: Sequence[Sample]) -> list[str]:
    if not samples:
        return []
    lines = [
        "",
        "## Samples",
        "",
        "The likeliest continuation (greedy decoding) of beginnings of validation rows.",
    ]
    for sample in samples:
        parts = {"Prompt": sample.prompt, "Before training": sample.before, "After training": sample.after}
        for title, text in parts.items():
            lines += ["", f"**{title}**", "", *fenced(text)]
    return lines


def fenced(text: str) -> list[str]:
    """A text as a block of code that no line of it can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *text.splitlines(), fence]


def _gained(report: RunReport) -> list[str]:
    """What training gained over the baseline, where that was measured."""
    found, baseline = report.improvement, report.baseline
    if found is None or baseline is None:
        return []
    what = {
        BaselineKind.UNTRAINED_MODEL: "the model before training",
        BaselineKind.CONSTANT_PREDICTION: "the best constant prediction (the head was new)",
    }[baseline.kind]
    interval = f", 95 % interval {found.ci95[0]:+.4f} to {found.ci95[1]:+.4f}" if found.ci95 else ""
    return [
        "",
        f"Training changed `{found.metric}` from {found.from_:.4f}, that of {what} on the same rows, to"
        f" {found.to:.4f} ({found.delta:+.4f}{interval}).",
    ]


def _stopped(report: RunReport) -> list[str]:
    early = report.early_stopped
    if early is None:
        return []
    on_gpu = report.effective is not None and report.effective.device == "cuda"
    kind = "GPU-seconds" if on_gpu else "seconds on the CPU"
    saved = "" if early.saved_seconds is None else f" This saved about {early.saved_seconds} {kind}."
    return [f"Stopped early: {early.reason}.{saved}", ""]


def _weights(parts: list[WeightsStatus] | None, checkpoint: str | None) -> list[str]:
    """In which formats the weights were kept, with the bytes of each."""
    if not parts:
        return []
    said = ", ".join(
        f"{part.parameters:,} {'trained' if part.trained else 'frozen'} in {part.format} ({part.bytes_per_parameter:g}"
        " bytes each)"
        for part in parts
    )
    origin = f"; the checkpoint has {checkpoint}" if checkpoint else ""
    return [f"- weights in memory: {said}{origin}"]


def _on_fewer_bits(config: RunConfig, form: str) -> list[str]:
    """What metrics of an adapter, which is published alone, were measured with, and what a baseline was."""
    weights = config.model.weights
    if weights not in LESS_THAN_FLOAT32:
        return []
    alone = f" The metrics are those of the adapter on a base in {weights}; on another they differ."
    return [
        "",
        f"The frozen weights were kept in {weights}, for the metrics before training too."
        f"{alone if form == 'peft' else ''}",
    ]


def _labels(labels: list[str] | None) -> list[str]:
    return [f"- labels: {', '.join(labels)}"] if labels else []


def _data(report: RunReport) -> list[str]:
    resolved = report.resolved
    if resolved is None:
        return []
    parts: dict[str, ResolvedData | None] = {
        "training": resolved.train,
        "validation": resolved.validation,
        "test": resolved.test,
    }
    return [
        f"- {name}: {data.rows} rows of `{data.uri or 'a local file'}` ({data.digest}){_dropped(data)}"
        for name, data in parts.items()
        if data is not None
    ]


def _dropped(data: ResolvedData) -> str:
    """What of a file the model did not see."""
    reasons = "; ".join(
        f"{each.rows} rows: {each.reason} (first row {each.first_row})" for each in data.invalid_reasons or []
    )
    lines = [f"dropped: {data.invalid_rows or 0} invalid, {data.duplicate_rows or 0} duplicates"]
    lines += [f"invalid: {reasons}"] if reasons else []
    if data.conflicting_duplicates:
        lines.append(f"{data.conflicting_duplicates} of the duplicates had another label")
    if data.truncated_rows and data.tokens:
        share = (data.truncated_tokens or 0) / data.tokens
        lines.append(f"truncated: {data.truncated_rows} texts, {share:.1%} of all tokens")
    if data.read_as:
        lines.append(_chats(data))
    return ", " + "; ".join(lines)


def _chats(data: ResolvedData) -> str:
    """What became of conversations."""
    if data.trained_tokens is None:
        return f"read as {data.read_as}"
    return (
        f"read as {data.read_as}: {data.trained_tokens or 0:,} tokens learned,"
        f" {data.untrained_rows or 0} conversations without one, {data.cut_turns or 0} turns without their end,"
        f" {data.control_tokens or 0} control tokens read as text"
    )
