"""SearchHistory: a search that has ended, for its report and plots. Part of SummaryConfig and CombineConfig."""

from typing import Annotated, Any

from pydantic import Field

from finetune_api.base import ApiModel, Message, ShortText
from finetune_api.metrics import MetricName
from finetune_api.run import Path
from finetune_api.search import MOST_TRIALS
from finetune_api.status import ConfirmedStatus, Count, Measured, TrialState


class SearchedTrial(ApiModel):
    """A trial of a search."""

    number: Count
    """Number of the trial, counted from 1."""
    name: ShortText
    """Name of its FineTuneJob."""
    state: TrialState
    """How it ended."""
    parameters: dict[str, Any]
    """Values of the searched fields, by path. A field that does not apply is absent."""
    value: Measured = None
    """Value of the metric: that of the published model, or the best one so far."""
    seconds: Count = 0
    """Seconds of training."""
    evaluations: list[Annotated[list[float], Field(min_length=2, max_length=2)]] = []
    """Epoch and value of each evaluation."""


class SearchHistory(ApiModel):
    """A search that has ended."""

    algorithm: ShortText
    """TPE, Random or Grid."""
    metric: MetricName
    """Metric that the trials are compared by."""
    logarithmic: list[str] = []
    """Paths of the searched fields with a logarithmic range."""
    rungs: list[float] = []
    """Epochs at which bad trials were pruned."""
    trials: Annotated[list[SearchedTrial], Field(max_length=MOST_TRIALS)]
    """All trials that still exist, in the order of their numbers."""
    best: Count | None = None
    """Number of the best trial."""
    confirmed: list[ConfirmedStatus] = []
    """The trials that were repeated with other seeds, the best mean first."""
    importances: dict[str, float] = {}
    """Importance of the searched fields (PED-ANOVA), as shares that add up to 1."""
    end: Message
    """Why the search ended, as part of a sentence."""
    device_seconds: Count = 0
    """Seconds of training of all trials and repetitions, times the devices of each."""
    saved_seconds: Count = 0
    """Device seconds that pruning saved."""
    report_dir: Path
    """Folder of the report (report.html) and its plots."""
    discard: Annotated[list[Path], Field(max_length=MOST_TRIALS)] = []
    """Folders of models to remove once the output is complete."""
