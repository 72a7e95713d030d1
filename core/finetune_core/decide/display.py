"""Texts for the columns of `kubectl get`. Pure."""

from finetune_api.base import MESSAGE_LENGTH
from finetune_api.metrics import Direction, direction, plain
from finetune_api.status import (
    ENDED,
    CheckpointStatus,
    CombinationStatus,
    ConfirmedStatus,
    DisplayStatus,
    FineTuneJobStatus,
    MemberStatus,
    ProgressStatus,
    Published,
    TrialsStatus,
    TrialState,
    TrialStatus,
)
from finetune_core.decide.improvement import improvement_sentence


def display_of(status: FineTuneJobStatus, message: str) -> DisplayStatus:
    """The columns of a status."""
    progress, effective, best = status.progress, status.effective, status.best_checkpoint
    training = effective.training if effective else None
    resources = effective.resources if effective else None
    epochs = training.epochs if training else None
    return DisplayStatus(
        progress=_runs(status) or _percent(progress),
        epoch=_epoch(progress.epoch if progress else None, epochs),
        loss=f"{progress.loss:.3f}" if progress and progress.loss is not None else None,
        best=_best_run(status) or _best_of(best),
        eta=_duration(progress.eta_seconds) if progress and progress.eta_seconds is not None else None,
        gpus=f"{resources.nodes}×{resources.gpus_per_node}" if resources else None,
        message=message[:MESSAGE_LENGTH],
    )


def _runs(status: FineTuneJobStatus) -> str | None:
    """Of a search or an ensemble: how many of its runs have ended."""
    if trials := status.trials:
        return f"{trials.total - trials.running}/{trials.planned} trials"
    ended = sum(member.state in ENDED for member in status.members)
    return f"{ended}/{len(status.members)} members" if status.members else None


def _best_run(status: FineTuneJobStatus) -> str | None:
    """Of a search or an ensemble: the best trial so far, or the best member, or what they are together."""
    if trials := status.trials:
        return _best(trials.metric, trials.best.value) if trials.best else None
    if status.model and (found := status.model.combination):
        together = found.published is Published.COMBINATION
        return _best(found.metric, found.combined if together else found.best_member)
    values = [member.value for member in status.members if member.value is not None]
    training = status.effective.training if status.effective else None
    if not values or training is None:
        return None
    metric = training.evaluation.best_metric
    return _best(metric, max(values) if direction(metric) is Direction.MAXIMIZE else min(values))


def _percent(progress: ProgressStatus | None) -> str | None:
    return f"{progress.percent}%" if progress and progress.percent is not None else None


def _best_of(best: CheckpointStatus | None) -> str | None:
    return _best(best.metric, best.value) if best else None


def _best(metric: str | None, value: float | None) -> str | None:
    return f"{metric} {value:.3f}" if metric and value is not None else None


def _epoch(done: float | None, planned: int | None) -> str | None:
    if done is None:
        return None
    return f"{done:.1f}/{planned}" if planned else f"{done:.1f}"


def _duration(seconds: int) -> str:
    """As kubectl shows ages: the two largest units."""
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    if hours >= 24:
        return f"{hours // 24}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{seconds % 60}s" if minutes else f"{seconds}s"


def described(metric: str, best: TrialStatus, confirmed: list[ConfirmedStatus]) -> str:
    """The best trial of a search, as part of a sentence."""
    values = ", ".join(f"{path}={text}" for path, text in best.parameters.items())
    mean = next((one for one in confirmed if one.number == best.number), None)
    if mean is None or mean.mean is None:
        value = "unknown" if best.value is None else f"{best.value:.4g}"
        return f"{best.name} with {metric} {value} ({values})"
    spread = "" if mean.spread is None else f" ± {mean.spread:.2g}"
    return f"{best.name} with {metric} {mean.mean:.4g}{spread} over {mean.runs} seeds ({values})"


def _of_the_search(trials: TrialsStatus | None) -> str:
    if trials is None or trials.best is None:
        return ""
    return f"{trials.end}; {described(trials.metric, trials.best, trials.confirmed)} is the best; "


def _of_the_ensemble(combination: CombinationStatus | None, members: list[MemberStatus]) -> str:
    if combination is None:
        return ""
    failed = sum(member.state is not TrialState.SUCCEEDED for member in members)
    without = f"; {failed} of {len(members)} members failed" if failed else ""
    figures = (
        f"{combination.combine} of {combination.used} members has {combination.metric} {_figure(combination.combined)},"
        f" the best member {_figure(combination.best_member)}"
    )
    if combination.published is Published.BEST_MEMBER:
        return f"{figures}: it is not better, so the best member is published{without}; "
    low, high = combination.gain_interval or (None, None)
    interval = f" (95 % interval {_figure(low)} to {_figure(high)})" if combination.gain_interval else ""
    return f"{figures}: a gain of {_figure(combination.gain)}{interval}{without}; "


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def success_message(status: FineTuneJobStatus) -> str:
    """The message of a successful job."""
    model = status.model
    if model is None:
        return "finished"
    found = _of_the_search(status.trials) + _of_the_ensemble(model.combination, status.members)
    digest = f" ({model.digest[:19]}…)" if model.digest else ""
    metric, gained = _headline(model.metrics), _gained(status)
    return f"{found}the model is at {model.uri}{digest}" + (f", {metric}" if metric else "") + gained


def _gained(status: FineTuneJobStatus) -> str:
    """What training gained over the baseline, where that was measured."""
    if status.improvement is None or status.baseline is None:
        return ""
    return f"; {improvement_sentence(status.improvement, status.baseline.kind)}"


def _headline(metrics: dict[str, float]) -> str:
    """The most meaningful metric: on test rows before validation rows."""
    for prefix in ("test_", "eval_"):
        for name in ("accuracy", "pearson", "rmse", "loss"):
            if prefix + name in metrics:
                return f"{prefix}{plain(name)} {metrics[prefix + name]:.3f}"
    return ""
