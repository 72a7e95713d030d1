"""What to do next about a search. Pure: (job, trials, now) → ParentDecision.

The trials are the state. The status repeats them for people, and keeps the highest number, so that the number of a
deleted trial is not used again. A trial is created once; what a decision asks for may be done twice without harm.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean, stdev
from typing import Any

from finetune_api.metrics import Direction, direction
from finetune_api.search import SearchSpec
from finetune_api.status import (
    TRIALS_KEPT,
    ConfirmedStatus,
    FineTuneJobStatus,
    MemberStatus,
    ModelStatus,
    Phase,
    Reason,
    ResolvedStatus,
    TrialsStatus,
    TrialState,
    TrialStatus,
)
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.context import seconds_between, with_verdict
from finetune_core.decide.display import described
from finetune_core.decide.parents import (
    ParentDecision,
    active_seconds,
    at_rest,
    parent_status,
    verdict_of_runs,
)
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import Run
from finetune_core.search.trials import Repeat, Trial, best_of, lasting, member_of, ranking, waiting

_LONGEST_TEXT = 256


@dataclass(frozen=True)
class Search:
    """A search as a decision sees it. `planned` is the number of trials; `fault` keeps it from creating any."""

    job: FineTuneJob
    resolved: Resolved
    trials: tuple[Trial, ...]
    planned: int
    metric: str
    repeats: tuple[Repeat, ...] = ()
    resolved_inputs: ResolvedStatus | None = None
    """The inputs as the first trial that reported them read them."""
    fault: Verdict | None = None

    @property
    def spec(self) -> SearchSpec:
        """The job's `spec.search`."""
        assert self.job.spec.search
        return self.job.spec.search

    @property
    def open(self) -> list[Trial]:
        """The trials that have not ended."""
        return [trial for trial in self.trials if trial.open]

    @property
    def runs(self) -> dict[Run, Trial]:
        """Trials and repetitions."""
        trials = {Run(trial.number): trial for trial in self.trials}
        return trials | {repeat.run: repeat.trial for repeat in self.repeats}

    @property
    def open_runs(self) -> dict[Run, Trial]:
        """Those that have not ended."""
        return {run: trial for run, trial in self.runs.items() if trial.open}

    @property
    def at_rest(self) -> bool:
        """Whether nothing trains or is about to."""
        return at_rest([run.state for run in self.open_runs.values()])

    @property
    def best(self) -> Trial | None:
        """The trial with a model that has the best mean, if trials were repeated, else the best value."""
        means = confirmed(self)
        by_number = {trial.number: trial for trial in self.trials}
        repeated = next((by_number[one.number] for one in means if one.number in by_number), None)
        return repeated or best_of(self.trials, self.metric)

    @property
    def winner(self) -> Run | None:
        """The run whose model is recorded: of the best trial and its repetitions the one with the best value."""
        best = self.best
        if best is None:
            return None
        runs = {run: trial for run, trial in self.runs.items() if run.trial == best.number}
        of_it = best_of(list(runs.values()), self.metric)
        return next(run for run, trial in runs.items() if trial is of_it)

    @property
    def total(self) -> int:
        """The highest number that a trial has or had."""
        known = self.job.status.trials.total if self.job.status.trials else 0
        return max([known, *(trial.number for trial in self.trials)])

    def count(self, state: TrialState) -> int:
        """The number of trials in a state."""
        return sum(trial.state is state for trial in self.trials)


@dataclass(frozen=True)
class _End:
    """Why no further trial is wanted; `early` if running trials, and repetitions, are not wanted either."""

    why: str
    early: bool = False


def decide_search(search: Search, model: ModelStatus | None, now: datetime) -> ParentDecision:
    """The next step of a search; `model` is that of its winner."""
    end = _end(search, now)
    repeat = _next_repeat(search) if end and not end.early and not search.open else None
    repeats_wanted = not (end and end.early)
    wanted = {
        run: not search.job.spec.suspend and (end is None if run.is_trial else repeats_wanted)
        for run in search.open_runs
    }
    repeating = repeats_wanted and (repeat or any(not run.is_trial for run in wanted))
    if end and search.at_rest and not repeating:
        return _conclude(search, model, end.why, now)
    room = not search.job.spec.suspend and not search.fault and len(wanted) < search.spec.parallelism
    create = repeat if end else _next_trial(search)
    return ParentDecision(
        status=with_verdict(_status(search, now), search.job.generation, _verdict(search, end), now),
        create=create if room else None,
        stop=tuple(run for run, trial in search.open_runs.items() if not trial.suspended and not wanted[run]),
        resume=tuple(run for run, trial in search.open_runs.items() if trial.suspended and wanted[run]),
        requeue_at=None if search.job.spec.suspend or (end and end.early) else _due(search, now),
    )


def _next_trial(search: Search) -> Run | None:
    return Run(search.total + 1) if search.total < search.planned else None


def _next_repeat(search: Search) -> Run | None:
    """The repetition to create: the best trials with the first seed, then with the second, and so on."""
    confirm = search.spec.confirm
    if confirm is None:
        return None
    for index in range(_repeats_created(search), confirm.top * confirm.seeds):
        seed, rank = divmod(index, confirm.top)
        if trial := _trial_of_rank(search, rank + 1):
            return Run(trial, rank + 1, seed + 1)
    return None


def _repeats_created(search: Search) -> int:
    """How many were, those included that somebody deleted."""
    known = search.job.status.trials.repeats if search.job.status.trials else 0
    top = search.spec.confirm.top if search.spec.confirm else 0
    return max([known, *((run.seed - 1) * top + run.rank for run, _ in _repeat_items(search))])


def _repeat_items(search: Search) -> list[tuple[Run, Trial]]:
    return [(repeat.run, repeat.trial) for repeat in search.repeats]


def _trial_of_rank(search: Search, rank: int) -> int | None:
    """The trial that has the rank: that of its repetitions, else the best one that has none."""
    given = {run.rank: run.trial for run, _ in _repeat_items(search)}
    if rank in given:
        return given[rank] if Run(given[rank]) in search.runs else None
    free = [one.number for one in ranking(search.trials, search.metric) if one.number not in given.values()]
    before = sum(other < rank and other not in given for other in range(1, rank))
    return free[before] if before < len(free) else None


def confirmed(search: Search) -> list[ConfirmedStatus]:
    """The repeated trials, the best mean first."""
    values: dict[int, list[float]] = {}
    for repeat in search.repeats:
        if repeat.trial.state is TrialState.SUCCEEDED and repeat.trial.value is not None:
            values.setdefault(repeat.run.trial, []).append(repeat.trial.value)
    sign = -1 if direction(search.metric) is Direction.MAXIMIZE else 1
    return sorted(
        (
            ConfirmedStatus(
                number=number,
                runs=len(found),
                mean=fmean(found),
                spread=stdev(found) if len(found) > 1 else None,
            )
            for number, found in values.items()
        ),
        key=lambda one: (sign * (one.mean or 0.0), one.number),
    )


def _end(search: Search, now: datetime) -> _End | None:
    """Why the search ends; None while it goes on."""
    spec, limit = search.spec, search.job.spec.active_deadline_seconds
    if search.job.status.trials and search.job.status.trials.end:
        return _End(search.job.status.trials.end, early=True)  # repetitions, if any were due, have ended too
    if limit is not None and active_seconds(search.job.status, now) >= limit:
        return _End(f"spec.activeDeadlineSeconds of {limit} reached", early=True)
    if spec.max_device_seconds is not None and device_seconds(search, now) >= spec.max_device_seconds:
        return _End(f"spec.search.maxDeviceSeconds of {spec.max_device_seconds} used up", early=True)
    if search.count(TrialState.FAILED) > spec.max_failed_trials:
        why = f"more than {spec.max_failed_trials} trials failed (spec.search.maxFailedTrials)"
        return _End(why, early=True)
    if spec.patience and _since_best(search) >= spec.patience:
        return _End(f"{spec.patience} trials without a better one (spec.search.patience)")
    if search.planned and search.total >= search.planned and not search.open:
        return _End(f"all {search.planned} trials have ended")
    return None


def _devices(search: Search) -> int:
    return max(1, search.resolved.resources.gpus_per_node or 0) * (search.resolved.resources.nodes or 1)


def device_seconds(search: Search, now: datetime) -> int:
    """Seconds of training of all runs, times their devices."""
    running = (
        _devices_of(search, run) * seconds_between(run.running_since, now) for run in search.runs.values()
    )
    return _ended_device_seconds(search) + sum(running)


def _devices_of(search: Search, run: Trial) -> int:
    return _devices(search) if run.devices is None else run.devices


def _ended_device_seconds(search: Search) -> int:
    return sum(
        _devices(search) * run.seconds if run.device_seconds is None else run.device_seconds
        for run in search.runs.values()
    )


def saved_seconds(search: Search) -> int:
    """What pruned trials would have needed beyond what they had, if they had trained as long as others on average."""
    whole = [trial.seconds for trial in search.trials if trial.state is TrialState.SUCCEEDED]
    pruned = [trial.seconds for trial in search.trials if trial.state is TrialState.PRUNED]
    if not whole:
        return 0
    return round(_devices(search) * sum(max(0.0, fmean(whole) - seconds) for seconds in pruned))


def _since_best(search: Search) -> int:
    """Trials that ended after the best one, successful or pruned."""
    ended = [trial for trial in search.trials if trial.state in (TrialState.SUCCEEDED, TrialState.PRUNED)]
    ended.sort(key=lambda trial: (trial.ended is None, trial.ended, trial.number))
    best, since = None, 0
    for trial in ended:
        better = best_of([one for one in (best, trial) if one], search.metric)
        best, since = better, 0 if better is trial else since + 1
    return since if best else 0


def _due(search: Search, now: datetime) -> datetime | None:
    """When the deadline is reached, or the budget at the present rate."""
    limit, budget = search.job.spec.active_deadline_seconds, search.spec.max_device_seconds
    left = [] if limit is None else [limit - active_seconds(search.job.status, now)]
    rate = sum(_devices_of(search, run) for run in search.open_runs.values() if run.running_since)
    if budget is not None and rate:
        left.append((budget - device_seconds(search, now)) // rate + 1)
    return now + timedelta(seconds=min(left)) if left else None


def _verdict(search: Search, end: _End | None) -> Verdict:
    if search.fault and not end:
        return search.fault
    stopping, news = None, _news(search)
    if end and (end.early or search.open):
        stopping = f"{end.why}; stopping the trials that run"
    elif end and not search.job.spec.suspend:
        news = f"{end.why}; {_repeating(search)}"
    states = [lasting(run, search.job.status.phase) for run in search.open_runs.values()]
    return verdict_of_runs(search.job, states, "trials", news, stopping)


def _repeating(search: Search) -> str:
    assert search.spec.confirm
    top, seeds = search.spec.confirm.top, search.spec.confirm.seeds
    ended = sum(not repeat.trial.open for repeat in search.repeats)
    return f"the best {top} are repeated with {seeds} seeds, {ended} repetitions have ended"


def _news(search: Search) -> str:
    """What has come of the trials so far."""
    ended = len(search.trials) - len(search.open)
    best = search.best
    parts = [f"{ended} of {search.planned} trials have ended, {len(search.open)} are open"]
    if best:
        parts.append(f"the best is {described(search.metric, _trial_status(best), confirmed(search))}")
    return "; ".join([*parts, *waiting(search.open)])


def _conclude(search: Search, model: ModelStatus | None, end: str, now: datetime) -> ParentDecision:
    """The end. A search that found a model has succeeded, whatever ended it but failures."""
    status = _status(search, now, end=end)
    ensemble = search.job.spec.ensemble
    members, least = (_members(search, ensemble.size), ensemble.least) if ensemble else ([], 0)
    too_many = search.count(TrialState.FAILED) > search.spec.max_failed_trials
    if model and not too_many and len(members) >= least:
        update = {"model": model, "members": members}
        return ParentDecision(status.model_copy(update=update), concludes=True)
    failed = [trial for trial in search.trials if trial.state is TrialState.FAILED]
    why = f"; {failed[-1].name} failed last: {failed[-1].message}" if failed else ""
    few = (
        f"; {len(members)} trials have a model, and spec.ensemble needs {least}"
        if len(members) < least
        else ""
    )
    reason = Reason.TRIALS_FAILED if failed or few else Reason.DEADLINE_EXCEEDED
    message = f"{end}{few or '; no trial is recorded as the best'}{why}"
    verdict = Verdict(Phase.FAILED, reason, message)
    seconds = active_seconds(search.job.status, now)
    ended = status.model_copy(update={"completion_time": now, "active_seconds": seconds})
    return ParentDecision(with_verdict(ended, search.job.generation, verdict, now))


def _members(search: Search, size: int) -> list[MemberStatus]:
    """The trials that spec.ensemble combines: the best means over seeds first, then the best values."""
    by_number = {trial.number: trial for trial in ranking(search.trials, search.metric)}
    order = dict.fromkeys([*(one.number for one in confirmed(search)), *by_number])
    return [member_of(by_number[number]) for number in order if number in by_number][:size]


def _status(search: Search, now: datetime, *, end: str | None = None) -> FineTuneJobStatus:
    """The parent's status with what is known of the trials."""
    suspends = search.job.spec.suspend and search.at_rest
    status = parent_status(search.job, search.resolved, now, at_rest=suspends)
    return status.model_copy(
        update={
            "resolved": status.resolved or search.resolved_inputs,
            "trials": trials_status(search, end=end),
        }
    )


def trials_status(search: Search, *, end: str | None) -> TrialsStatus:
    """The counts, the best trial, and the newest ones. They always add up to `total`."""
    still_open = len(search.open)
    latest = sorted(search.trials, key=lambda trial: trial.number)[-TRIALS_KEPT:]
    best = search.best
    return TrialsStatus(
        metric=search.metric,
        planned=search.planned,
        end=end,
        total=search.total,
        running=0 if end else still_open,
        succeeded=search.count(TrialState.SUCCEEDED),
        pruned=search.count(TrialState.PRUNED),
        failed=search.count(TrialState.FAILED),
        stopped=still_open if end else 0,
        deleted=search.total - len(search.trials),
        repeats=_repeats_created(search),
        device_seconds=_ended_device_seconds(search),
        saved_seconds=saved_seconds(search),
        confirmed=confirmed(search),
        best=_trial_status(best) if best else None,
        latest=[_trial_status(trial, ended=end is not None) for trial in latest],
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
