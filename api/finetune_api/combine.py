"""CombineConfig: several trained models in, one out. The operator will write it, or a person for a laptop.

A file format as RunConfig is: every path explicit, versioned, frozen by a golden file in the tests. The answer is the
same RunReport.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from finetune_api import API_VERSION
from finetune_api.base import ApiModel, Rule
from finetune_api.dataset import ColumnsSpec, MaxInvalidRows, PreprocessingSpec
from finetune_api.metrics import MetricName
from finetune_api.objective import ObjectiveSpec, only_for_causal_lm
from finetune_api.run import DataInput, Devices, JobIdentity, Path, ProgressEndpoint
from finetune_api.status import Digest
from finetune_api.training import Precision


class CombineRule(StrEnum):
    """How several models become one."""

    AVERAGE_PROBABILITIES = "AverageProbabilities"
    VOTE = "Vote"
    AVERAGE_WEIGHTS = "AverageWeights"
    AVERAGE_PREDICTIONS = "AveragePredictions"


RULES = {
    "classification": [CombineRule.AVERAGE_PROBABILITIES, CombineRule.VOTE, CombineRule.AVERAGE_WEIGHTS],
    "token_classification": [
        CombineRule.AVERAGE_PROBABILITIES,
        CombineRule.VOTE,
        CombineRule.AVERAGE_WEIGHTS,
    ],
    "regression": [CombineRule.AVERAGE_PREDICTIONS, CombineRule.AVERAGE_WEIGHTS],
    "causal_lm": [CombineRule.AVERAGE_WEIGHTS],
}
"""What fits each objective, by the member of ObjectiveSpec."""


def unfit(rule: CombineRule, objective: str) -> str | None:
    """Why a rule does not fit an objective, and what does; None where it fits."""
    fitting = RULES[objective]
    if rule in fitting:
        return None
    return f"{rule} does not fit {objective}; use {' or '.join(fitting)}"


class MemberInput(ApiModel):
    """A model that the trainer published."""

    path: Path
    """Its folder, with SHA256SUMS."""
    uri: str | None = None
    """Where the user says it lies; for messages and the manifest."""
    digest: Digest | None = None
    """`status.model.digest` of the job that made it; another one is refused."""


class CombineData(ApiModel):
    """The rows on which every member and the combination are scored; none of them may have been trained on."""

    rules = (
        Rule(
            "has(self.validation) || has(self.test)",
            "give validation or test rows, or both",
            lambda s: s.validation is not None or s.test is not None,
        ),
    )
    validation: DataInput | None = None
    """Rows whose metrics are told as eval_."""
    test: DataInput | None = None
    """Rows whose metrics are told as test_."""
    columns: ColumnsSpec = ColumnsSpec()
    """Which columns hold what."""
    preprocessing: PreprocessingSpec = PreprocessingSpec()
    """How texts are prepared: as the members were trained."""
    max_invalid_rows: MaxInvalidRows = "0"
    """A count or a share such as 1%."""


class CombinePaths(ApiModel):
    """Where the combination goes: no folder in another, the first two on one file system, so that a rename publishes."""

    model_dir: Path
    """The folder; exists only once it is complete."""
    staging_dir: Path
    """Where it is put together before the rename."""
    hub_dir: Path | None = None
    """Where rows on the Hub are downloaded to. Default: huggingface_hub's own cache."""
    uri: str | None = None
    """Where the user says the folder lies."""


class CombineConfig(ApiModel):
    """All that one combination needs."""

    rules = (
        Rule(
            "!has(self.devices) || self.devices.gpus <= 1",
            "one member is scored at a time, by one process; ask for one of devices.gpus",
            lambda s: s.devices.gpus <= 1,
        ),
        *only_for_causal_lm(),
    )
    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["CombineConfig"]
    """By this the trainer knows what RUN.json is."""
    job: JobIdentity
    members: Annotated[list[MemberInput], Field(min_length=2, max_length=100)]
    """The models to combine, each with the same objective, labels and tokenizer."""
    combine: CombineRule
    """AverageProbabilities or Vote of classifiers, AveragePredictions of regressors; AverageWeights, a model soup (Wortsman et al. 2022), of any models with the same architecture that started from the same weights."""
    dataset: CombineData
    objective: ObjectiveSpec
    """That of the members."""
    metrics: Annotated[list[MetricName], Field(max_length=4)] | None = None
    """What to report beside the loss. Default: as for training."""
    output: CombinePaths
    devices: Devices = Devices()
    precision: Precision = Precision.AUTO
    progress: ProgressEndpoint | None = None
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of /metrics; 0 serves none."""
    termination_log: Path | None = None
    """File that gets the RunReport; none on a laptop."""
