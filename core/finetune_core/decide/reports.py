"""Applies a trainer's report to the status. Pure; for progress POSTs and termination messages."""

from datetime import datetime

from finetune_api.run import RunReport
from finetune_api.status import (
    EPOCHS_KEPT,
    LARGEST_COUNT,
    AttemptStatus,
    EffectiveStatus,
    EpochStatus,
    FineTuneJobStatus,
    ModelStatus,
    ProgressStatus,
    ResolvedStatus,
)

_OPERATORS = {"training", "resources", "output_uri", "image"}
"""Of status.effective: what the operator writes, and no report changes."""


def with_report(status: FineTuneJobStatus, report: RunReport, time: datetime) -> FineTuneJobStatus:
    """The status with the new values of the report; the rest is unchanged."""
    update: dict[str, object] = {
        "best_checkpoint": report.best or status.best_checkpoint,
        "latest_checkpoint": report.latest or status.latest_checkpoint,
        "early_stopped": report.early_stopped or status.early_stopped,
        "epochs": _merge_epochs(status, report),
        "resolved": _merge_resolved(status.resolved, report.resolved),
        "effective": _merge_effective(status.effective, report.effective),
        "baseline": report.baseline or status.baseline,
        "improvement": report.improvement or status.improvement,
        "forgetting": report.forgetting or status.forgetting,
    }
    if report.random_search and status.trials:
        found = {"random_search": report.random_search}
        update["trials"] = status.trials.model_copy(update=found)
    if report.progress:
        begun = bool(status.attempts) and status.attempts[-1].to_step is not None
        progress = merge_progress(status.progress if begun else None, report.progress)
        update["progress"] = progress.model_copy(update={"last_update_time": time})
    return status.model_copy(update=update)


def merge_progress(old: ProgressStatus | None, new: ProgressStatus) -> ProgressStatus:
    """An attempt's progress: a report without a step, such as a Hugging Face Trainer's last, adds to the old one."""
    if old is None or new.step is not None:
        return new
    reported = {name: value for name in type(new).model_fields if (value := getattr(new, name)) is not None}
    return old.model_copy(update=reported)


def _merge_epochs(status: FineTuneJobStatus, report: RunReport) -> list[EpochStatus]:
    by_step = {epoch.step: epoch for epoch in status.epochs}
    by_step |= {epoch.step: epoch for epoch in report.epochs}
    return [by_step[step] for step in sorted(by_step)][-EPOCHS_KEPT:]


def _merge_resolved(old: ResolvedStatus | None, new: ResolvedStatus | None) -> ResolvedStatus | None:
    if old is None or new is None:
        return new or old
    reported = {name: value for name in type(new).model_fields if (value := getattr(new, name)) is not None}
    return old.model_copy(update=reported)


def _merge_effective(old: EffectiveStatus | None, new: EffectiveStatus | None) -> EffectiveStatus | None:
    """The trainer adds what only it knows."""
    if old is None or new is None:
        return old or new
    found = {name: getattr(new, name) for name in type(new).model_fields.keys() - _OPERATORS}
    return old.model_copy(update={name: value for name, value in found.items() if value is not None})


def with_attempt_report(attempt: AttemptStatus, report: RunReport | None) -> AttemptStatus:
    """The attempt's record with the steps of its report."""
    if report is None:
        return attempt
    parts = (report.progress, report.latest)
    step = max((part.step for part in parts if part and part.step is not None), default=None)
    begun = report.from_step if 0 <= (report.from_step or 0) <= LARGEST_COUNT else None
    return attempt.model_copy(
        update={
            "from_step": attempt.from_step if begun is None else begun,
            "to_step": attempt.to_step if step is None else step,
        }
    )


def unverified_model(uri: str, status: FineTuneJobStatus, time: datetime) -> ModelStatus:
    """The model of a user's script, whose files are not verified."""
    metrics = status.progress.metrics if status.progress else None
    return ModelStatus(uri=uri, format="Unverified", metrics=metrics or {}, trained_at=time)


def with_resolved_image(status: FineTuneJobStatus, image: str) -> FineTuneJobStatus:
    """The status with the digest of the image that runs."""
    resolved = (status.resolved or ResolvedStatus()).model_copy(update={"image": image})
    return status.model_copy(update={"resolved": resolved})
