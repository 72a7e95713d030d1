"""SearchHistory: a search that has ended, for its report and plots. Part of SummaryConfig and CombineConfig."""

from typing import Annotated, Any

from pydantic import Field, FiniteFloat

from finetune_api.base import ApiModel, Message, Rule, ShortText, Unique
from finetune_api.metrics import MetricName
from finetune_api.run import Path
from finetune_api.search import MOST_TRIALS, Algorithm
from finetune_api.status import EPOCHS_KEPT, ConfirmedStatus, Count, Measured, TrialState

MOST_RUNS = MOST_TRIALS + 81
"""All trials, and the repetitions of the best ones."""
Point = Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]


class SearchedTrial(ApiModel):
    """A trial of a search."""

    number: Count
    """Number of the trial, counted from 1."""
    name: ShortText
    """Name of its FineTuneJob."""
    state: TrialState
    """How it ended."""
    message: ShortText = ""
    """Why it failed, in one sentence."""
    parameters: dict[str, Any]
    """Values of the searched fields, by path. A field that does not apply is absent."""
    value: Measured = None
    """Value of the metric: that of the published model, or the best one so far."""
    seconds: Count = 0
    """Seconds of training."""
    evaluations: Annotated[list[Point], Field(max_length=EPOCHS_KEPT)] = []
    """Epoch and value of each evaluation."""


class SearchHistory(ApiModel):
    """A search that has ended."""

    rules = (
        Rule(
            "!has(self.best) || self.trials.exists(t, t.number == self.best && has(t.value))",
            "best must be the number of a trial of this list that has a value",
            lambda s: s.best is None or any(t.number == s.best and t.value is not None for t in s.trials),
        ),
    )
    algorithm: Algorithm
    """TPE, Random or Grid."""
    metric: MetricName
    """Metric that the trials are compared by."""
    logarithmic: list[str] = []
    """Paths of the searched fields with a logarithmic range."""
    rungs: list[FiniteFloat] = []
    """Epochs at which bad trials were pruned."""
    trials: Annotated[list[SearchedTrial], Field(max_length=MOST_TRIALS), Unique("number")]
    """All trials that still exist, in the order of their numbers."""
    trials_dropped: Count | None = None
    """Number of older trials that are not in this file, if it has no room for all."""
    evaluations_kept: Count | None = None
    """Most evaluations of a trial in this file, if it has no room for all."""
    repetitions: Annotated[list[ShortText], Field(max_length=MOST_RUNS - MOST_TRIALS)] = []
    """Names of the FineTuneJobs that repeated trials with other seeds."""
    best: Count | None = None
    """Number of the best trial."""
    confirmed: list[ConfirmedStatus] = []
    """The trials that were repeated with other seeds, the best mean first."""
    importances: dict[str, FiniteFloat] = {}
    """Importance of the searched fields (PED-ANOVA), as shares that add up to 1."""
    end: Message
    """Why the search ended, as part of a sentence."""
    device_seconds: Count = 0
    """Seconds of training of all trials and repetitions, times the devices of each."""
    saved_seconds: Count = 0
    """Device seconds that pruning saved."""
    report_dir: Path
    """Folder of the report (report.html) and its plots. Files with other names in it stay."""
    discard: Annotated[list[Path], Field(max_length=MOST_RUNS)] = []
    """Folders of models to remove once the output is complete. Only models of these trials and repetitions are removed."""

    @property
    def total(self) -> int:
        """Number of trials, those included that are not in this file."""
        return len(self.trials) + (self.trials_dropped or 0)

    @property
    def best_trial(self) -> SearchedTrial | None:
        """The best trial."""
        return next((trial for trial in self.trials if trial.number == self.best), None)


def fitting(history: SearchHistory, limit: int) -> SearchHistory:
    """The history as JSON of at most `limit` bytes: with as many evaluations of each trial as fit, the last included.

    A ConfigMap holds 1 MiB, and 999 trials with 50 evaluations each are 1.6 MiB. If it is too long without any, the
    older half of the trials is dropped until it fits, but never the best one.
    """
    shorter, kept = history, EPOCHS_KEPT
    while kept and _size(shorter) > limit:
        kept //= 2
        trials = [trial.model_copy(update={"evaluations": _spread(trial, kept)}) for trial in history.trials]
        shorter = history.model_copy(update={"trials": trials, "evaluations_kept": kept})
    while len(shorter.trials) > 2 and _size(shorter) > limit:
        half = len(shorter.trials) // 2
        trials = [one for at, one in enumerate(shorter.trials) if at >= half or one.number == history.best]
        dropped = len(history.trials) - len(trials)
        shorter = shorter.model_copy(update={"trials": trials, "trials_dropped": dropped})
    return shorter


def _size(history: SearchHistory) -> int:
    return len(history.model_dump_json(by_alias=True).encode())


def _spread(trial: SearchedTrial, count: int) -> list[list[float]]:
    """Evaluations at even distances, the last one included."""
    found = trial.evaluations
    if len(found) <= count:
        return found
    return [found[(number + 1) * len(found) // count - 1] for number in range(count)]
