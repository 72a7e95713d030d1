"""What a search found, in words. Pure."""

from collections import Counter

from finetune_api.metrics import Direction, direction
from finetune_api.run import JobIdentity
from finetune_api.search_history import SearchedTrial, SearchHistory
from finetune_api.status import ConfirmedStatus, TrialState
from finetune_trainer.reporting.recorder import duration
from finetune_trainer.summary.random_search import RANDOM_TRIALS, random_search_estimate
from finetune_trainer.summary.values import clipped, text_of

_LONGEST_VALUES = 400


def summary(history: SearchHistory) -> list[str]:
    """Sentences, one a paragraph of the report."""
    return [
        _counts(history),
        _best(history),
        *_confirmed(history),
        *_random_search(history),
        _compute(history),
        f"The search ended: {history.end.rstrip('.')}.",
    ]


def end_message(history: SearchHistory) -> str:
    """The result as the job's last message."""
    best = history.best_trial
    assert best is not None, "SummaryConfig has a rule for it"
    means = {one.number: one.mean for one in history.confirmed}
    mean = means.get(best.number)
    value = f"{history.metric} {measured(best.value)}{'' if mean is None else f', mean {measured(mean)}'}"
    return f"trial {best.number} of {history.total} is the best: {value}{_with_values(best)}"


def origin(history: SearchHistory, job: JobIdentity, name: str) -> str:
    """Where a published model comes from, in Markdown; `name` is that of the FineTuneJob that trained it."""
    best = history.best_trial
    assert best is not None, "SummaryConfig has a rule for it"
    which = f"trial {best.number}" if best.name == name else f"a repetition of trial {best.number}"
    return (
        f"This model is {which} (`{name}`) of the hyperparameter search `{job.namespace}/{job.name}`,"
        f" the best of {history.total} trials by {history.metric}."
    )


def counts(history: SearchHistory) -> str:
    """How many trials ended in which way, as part of a sentence."""
    found = Counter(trial.state for trial in history.trials)
    return ", ".join(f"{found[state]} {state.lower()}" for state in TrialState if found[state])


def measured(value: float | None) -> str:
    """A value of the metric."""
    return "–" if value is None else f"{value:.4g}"


def size(count: int) -> str:
    """Bytes for people: 12.3 MB."""
    number = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def _counts(history: SearchHistory) -> str:
    count, better = history.total, direction(history.metric) is Direction.MAXIMIZE
    how = (
        f"by {history.algorithm}, compared by {history.metric} ({'higher' if better else 'lower'} is better)"
    )
    said, missing = counts(history), history.trials_dropped
    dropped = f". This report has no room for {missing} older ones; of the others" if missing else ""
    return f"{count} {'trial' if count == 1 else 'trials'} {how}{dropped}{': ' if said else ''}{said}."


def _best(history: SearchHistory) -> str:
    best = history.best_trial
    if best is None:
        return "No trial has a model, so there is no best one."
    return f"The best is trial {best.number} with {history.metric} {measured(best.value)}."


def _with_values(trial: SearchedTrial) -> str:
    values = ", ".join(f"{path} {text_of(value)}" for path, value in trial.parameters.items())
    return f" with {clipped(values, _LONGEST_VALUES)}" if values else ""


def _confirmed(history: SearchHistory) -> list[str]:
    found = [_repeated(one) for one in history.confirmed]
    return [f"Repeated with other seeds: {'; '.join(found)}."] if found else []


def _repeated(one: ConfirmedStatus) -> str:
    spread = "" if one.spread is None else f" with standard deviation {one.spread:.2g}"
    runs = f"{one.runs} {'run' if one.runs == 1 else 'runs'}"
    return f"trial {one.number} has mean {measured(one.mean)}{spread} over {runs}"


def _random_search(history: SearchHistory) -> list[str]:
    found = random_search_estimate(history)
    if found is None:
        return []
    interval = "" if found.low == found.high else f"; 90 % interval {found.low:.4g} to {found.high:.4g}"
    return [
        f"Random search would have reached {history.metric} {found.median:.4g} in the same training time"
        f" (median{interval}). This is a bootstrap over the {RANDOM_TRIALS} random trials that TPE starts with, and"
        " never better than the best of them: a longer random search may find more."
    ]


def _compute(history: SearchHistory) -> str:
    saved = f"; pruning saved about {_seconds(history.saved_seconds)}" if history.saved_seconds else ""
    return f"Training took {_seconds(history.device_seconds)}{saved}."


def _seconds(count: int) -> str:
    return f"{count:,} device seconds{f' ({duration(count)})' if count >= 60 else ''}"
