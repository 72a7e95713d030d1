"""What to do next about a search. Pure: (job, trials, now) → SearchDecision.

The trials are the state. The status repeats them for people, and keeps the highest number, so that the number of a
deleted trial is not used again. A trial is created once; what a decision asks for may be done twice without harm.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from finetune_api.status import (
    TRIALS_KEPT,
    Condition,
    ConditionType,
    EffectiveStatus,
    FineTuneJobStatus,
    ModelStatus,
    Phase,
    Reason,
    TrialsStatus,
    TrialState,
    TrialStatus,
)
from finetune_operator.decide.conditions import Verdict
from finetune_operator.decide.context import seconds_between, with_verdict
from finetune_operator.plan.effective import Resolved
from finetune_operator.plan.finetunejob import FineTuneJob
from finetune_operator.search.trials import Trial, best_of

_LONGEST_TEXT = 256


@dataclass(frozen=True)
class SearchDecision:
    """The next status; the trial to create, if any; the trials to stop or to let run, by number."""

    status: FineTuneJobStatus
    create: int | None = None
    stop: tuple[int, ...] = ()
    resume: tuple[int, ...] = ()
    requeue_at: datetime | None = None


@dataclass(frozen=True)
class Search:
    """A search as a decision sees it. `planned` is the number of trials; `fault` keeps it from creating any."""

    job: FineTuneJob
    resolved: Resolved
    trials: tuple[Trial, ...]
    planned: int
    metric: str
    fault: Verdict | None = None

    @property
    def open(self) -> list[Trial]:
        """The trials that have not ended."""
        return [trial for trial in self.trials if trial.open]

    @property
    def best(self) -> Trial | None:
        """The best trial with a model."""
        return best_of(list(self.trials), self.metric)

    @property
    def total(self) -> int:
        """The highest number that a trial has or had."""
        known = self.job.status.trials.total if self.job.status.trials else 0
        return max([known, *(trial.number for trial in self.trials)])

    def count(self, state: TrialState) -> int:
        """The number of trials in a state."""
        return sum(trial.state is state for trial in self.trials)


def decide_search(search: Search, model: ModelStatus | None, now: datetime) -> SearchDecision:
    """The next step of a search; `model` is that of its best trial."""
    spec = search.job.spec.search
    assert spec
    end = _end(search, now)
    wanted = not (search.job.spec.suspend or end)
    stop = tuple(trial.number for trial in search.open if not trial.suspended and not wanted)
    resume = tuple(trial.number for trial in search.open if trial.suspended and wanted)
    if end and not any(trial.state is not TrialState.SUSPENDED for trial in search.open):
        return _conclude(search, model, end, now)
    verdict = _verdict(search, end)
    create = None
    if wanted and not search.fault and len(search.open) < spec.parallelism and search.total < search.planned:
        create = search.total + 1
    status = with_verdict(_status(search, now), search.job.generation, verdict, now)
    return SearchDecision(status, create, stop, resume, _deadline(search, now) if wanted else None)


def _end(search: Search, now: datetime) -> str | None:
    """Why no further trial is wanted; None while the search goes on."""
    spec = search.job.spec.search
    assert spec
    if _over_deadline(search, now):
        return f"spec.activeDeadlineSeconds of {search.job.spec.active_deadline_seconds} reached"
    if search.count(TrialState.FAILED) > spec.max_failed_trials:
        return f"more than {spec.max_failed_trials} trials failed (spec.search.maxFailedTrials)"
    if spec.patience and _since_best(search) >= spec.patience:
        return f"{spec.patience} trials without a better one (spec.search.patience)"
    if search.planned and search.total >= search.planned and not search.open:
        return f"all {search.planned} trials have ended"
    return None


def _since_best(search: Search) -> int:
    """Trials that ended after the best one, successful or pruned."""
    ended = [trial for trial in search.trials if trial.state in (TrialState.SUCCEEDED, TrialState.PRUNED)]
    ended.sort(key=lambda trial: (trial.ended is None, trial.ended, trial.number))
    best, since = None, 0
    for trial in ended:
        better = best_of([one for one in (best, trial) if one], search.metric)
        best, since = better, 0 if better is trial else since + 1
    return since if best else 0


def _running_since(status: FineTuneJobStatus) -> datetime | None:
    """When the search began or was resumed; None while it is suspended."""
    suspended: Condition | None = next(
        (one for one in status.conditions if one.type is ConditionType.SUSPENDED), None
    )
    if status.start_time is None or suspended is None or suspended.status == "True":
        return None
    return max(status.start_time, suspended.last_transition_time)


def _active_seconds(search: Search, now: datetime) -> int:
    status = search.job.status
    return (status.active_seconds or 0) + seconds_between(_running_since(status), now)


def _over_deadline(search: Search, now: datetime) -> bool:
    limit = search.job.spec.active_deadline_seconds
    return limit is not None and _active_seconds(search, now) >= limit


def _deadline(search: Search, now: datetime) -> datetime | None:
    limit = search.job.spec.active_deadline_seconds
    return None if limit is None else now + timedelta(seconds=limit - _active_seconds(search, now))


def _verdict(search: Search, end: str | None) -> Verdict:
    if search.fault and not end:
        return search.fault
    running = any(trial.state is TrialState.RUNNING for trial in search.open)
    if end:
        return Verdict(
            Phase.RUNNING if running else Phase.PENDING,
            Reason.STOPPING,
            f"{end}; stopping the trials that run",
        )
    if search.job.spec.suspend:
        if any(trial.state is not TrialState.SUSPENDED for trial in search.open):
            return Verdict(
                Phase.PENDING, Reason.STOPPING, "its trials save a checkpoint and stop (spec.suspend)"
            )
        message = f"suspended by spec.suspend; set it to false to resume. {_news(search)}"
        return Verdict(Phase.SUSPENDED, Reason.SUSPENDED, message)
    phase, reason = (Phase.RUNNING, Reason.RUNNING) if running else (Phase.PENDING, Reason.PENDING)
    return Verdict(phase, reason, _news(search))


def _news(search: Search) -> str:
    """What has come of the trials so far."""
    ended = len(search.trials) - len(search.open)
    best = search.best
    waiting = next(
        (trial for trial in search.open if trial.state is TrialState.PENDING and trial.message), None
    )
    parts = [f"{ended} of {search.planned} trials have ended, {len(search.open)} are open"]
    if best:
        parts.append(f"the best is {_described(search, best)}")
    if waiting:
        parts.append(f"{waiting.name} waits: {waiting.message}")
    return "; ".join(parts)


def _described(search: Search, trial: Trial) -> str:
    values = ", ".join(f"{path}={text}" for path, text in _texts(trial.values).items())
    return f"{trial.name} with {search.metric} {trial.value:.4g} ({values})"


def _conclude(search: Search, model: ModelStatus | None, end: str, now: datetime) -> SearchDecision:
    """The end. A search that found a model has succeeded, whatever ended it but failures."""
    best = search.best
    status = _status(search, now, ended=True).model_copy(update={"completion_time": now, "model": model})
    assert search.job.spec.search
    too_many = search.count(TrialState.FAILED) > search.job.spec.search.max_failed_trials
    if best and not too_many:
        uri = model.uri if model else "unknown"
        verdict = Verdict(
            Phase.SUCCEEDED,
            Reason.SUCCEEDED,
            f"{end}; {_described(search, best)} is the best; its model is at {uri}",
        )
    else:
        status = status.model_copy(update={"model": None})
        failed = [trial for trial in search.trials if trial.state is TrialState.FAILED]
        why = f"; {failed[-1].name} failed last: {failed[-1].message}" if failed else ""
        reason = Reason.TRIALS_FAILED if failed else Reason.DEADLINE_EXCEEDED
        verdict = Verdict(Phase.FAILED, reason, f"{end}; no trial is recorded as the best{why}")
    return SearchDecision(with_verdict(status, search.job.generation, verdict, now))


def _status(search: Search, now: datetime, *, ended: bool = False) -> FineTuneJobStatus:
    """The parent's status with what is known of the trials."""
    status = search.job.status
    effective = (status.effective or EffectiveStatus()).model_copy(
        update={
            "training": search.job.spec.resolved_training(),
            "resources": search.resolved.resources,
            "output_uri": search.resolved.output_uri,
            "image": search.resolved.image,
        }
    )
    suspends = search.job.spec.suspend and not any(
        trial.state is not TrialState.SUSPENDED for trial in search.open
    )
    active = _active_seconds(search, now) if suspends or ended else status.active_seconds
    return status.model_copy(
        update={
            "effective": effective,
            "trials": trials_status(search, ended=ended),
            "start_time": status.start_time or (None if search.job.spec.suspend else now),
            "active_seconds": active,
        }
    )


def trials_status(search: Search, *, ended: bool) -> TrialsStatus:
    """The counts, the best trial, and the newest ones. They always add up to `total`."""
    still_open = len(search.open)
    latest = sorted(search.trials, key=lambda trial: trial.number)[-TRIALS_KEPT:]
    best = search.best
    return TrialsStatus(
        metric=search.metric,
        planned=search.planned,
        total=search.total,
        running=0 if ended else still_open,
        succeeded=search.count(TrialState.SUCCEEDED),
        pruned=search.count(TrialState.PRUNED),
        failed=search.count(TrialState.FAILED),
        stopped=still_open if ended else 0,
        deleted=search.total - len(search.trials),
        best=_trial_status(best) if best else None,
        latest=[_trial_status(trial, ended=ended) for trial in latest],
    )


def _trial_status(trial: Trial, *, ended: bool = False) -> TrialStatus:
    return TrialStatus(
        number=trial.number,
        name=trial.name,
        state=TrialState.STOPPED if ended and trial.open else trial.state,
        parameters=_texts(trial.values),
        value=trial.value,
    )


def _texts(values: dict[str, Any]) -> dict[str, str]:
    """Values as JSON; a number with the digits that people read."""
    return {path: _text(value)[:_LONGEST_TEXT] for path, value in values.items()}


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
