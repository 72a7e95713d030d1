"""CombineConfig: combine several trained models into one. Written by hand, or by the operator for spec.ensemble.

A file format like RunConfig: all paths explicit, versioned, frozen by a golden file in the tests. The result is a
RunReport as well.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from finetune_api import API_VERSION
from finetune_api.base import ApiModel, Rule, ShortText
from finetune_api.dataset import ColumnsSpec, MaxInvalidRows, PreprocessingSpec, RowFormat
from finetune_api.gate import GateSpec
from finetune_api.metrics import MetricName, plain
from finetune_api.model import Dtype
from finetune_api.objective import ObjectiveSpec, only_for_language_models
from finetune_api.run import (
    DataInput,
    Devices,
    JobIdentity,
    ModelInput,
    Path,
    ProgressEndpoint,
    Temperature,
    ValidationSplit,
)
from finetune_api.search_history import SearchHistory
from finetune_api.status import Digest
from finetune_api.training import Precision, TrainingSpec


class CombineRule(StrEnum):
    """How several models are combined."""

    AVERAGE_PROBABILITIES = "AverageProbabilities"
    VOTE = "Vote"
    AVERAGE_WEIGHTS = "AverageWeights"
    GREEDY_SOUP = "GreedySoup"
    AVERAGE_PREDICTIONS = "AveragePredictions"
    DISTIL = "Distil"


class Publish(StrEnum):
    """When the combination is published."""

    IF_BETTER = "IfBetter"
    ALWAYS = "Always"


METRICS_REPORTED = 4
"""Beside the loss and bestMetric: with prefixes, and those of mean and best member, they fit into a status."""
VOTES_HAVE_NO_LOSS = "votes have no loss to be compared by; set {}: accuracy or another metric"
SOUPS = [CombineRule.AVERAGE_WEIGHTS, CombineRule.GREEDY_SOUP]
"""Rules that make one model of the members' weights."""
RULES = {
    "classification": [CombineRule.AVERAGE_PROBABILITIES, CombineRule.VOTE, *SOUPS, CombineRule.DISTIL],
    "token_classification": [CombineRule.AVERAGE_PROBABILITIES, CombineRule.VOTE, *SOUPS, CombineRule.DISTIL],
    "regression": [CombineRule.AVERAGE_PREDICTIONS, *SOUPS, CombineRule.DISTIL],
    "causal_lm": SOUPS,
    "preference": [],
}
"""Rules available for each objective, by the member of ObjectiveSpec. The first is the default; none for models that are not combined."""


def unfit(rule: CombineRule, objective: str) -> str | None:
    """Why a rule does not fit an objective, and which rules do; None if it fits."""
    fitting = RULES[objective]
    if not fitting:
        return f"models of {objective} are not combined; publish the best one of a search instead"
    if rule in fitting:
        return None
    return f"{rule} does not fit {objective}; use {' or '.join(fitting)}"


class DistilSpec(ApiModel):
    """How the student of combine: Distil learns from the members (Hinton et al. 2015)."""

    temperature: Temperature | None = None
    """Temperature of the probabilities that the student learns: a higher one shows more of how the members rank the labels that they do not choose. For classification and token classification. Default: 2."""
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the members' outputs in the student's loss. The labels have the share 1 - alpha. With 1 the student learns from the members alone."""


class StudentInput(ApiModel):
    """The student of combine: Distil. It is trained on the training rows of dataset, with the mean of the members' outputs."""

    model: ModelInput
    """Model that the student starts from. Its adapter, if it has one, is merged."""
    objective: ObjectiveSpec | None = None
    """Objective of the student, where its loss differs from that of the members. Default: objective."""
    training: TrainingSpec = TrainingSpec()
    """Training settings of the student."""
    distil: DistilSpec = DistilSpec()
    """Temperature, and the shares of the members' outputs and of the labels in the loss."""
    dtype: Dtype = Dtype.AUTO
    """Number format of the student's published weights."""
    work_dir: Path
    """Folder of the student while it trains: the members' outputs, checkpoints, and its model. Removed once the model is published, if it is next to output.stagingDir."""


class MemberInput(ApiModel):
    """A model published by the trainer."""

    path: Path
    """Folder of the model, with SHA256SUMS."""
    uri: str | None = None
    """URI that the user gave, for messages and the manifest."""
    digest: Digest | None = None
    """Expected digest: `status.model.digest` of the job that trained it. A folder with another digest is refused."""


class CombineData(ApiModel):
    """Rows on which each member and the combination are evaluated. No member may have been trained on them."""

    rules = (
        Rule(
            "has(self.validation) || has(self.split) || has(self.test)",
            "give validation rows, a split or test rows",
            lambda s: s.validation is not None or s.split is not None or s.test is not None,
        ),
        Rule(
            "!has(self.split) || (!has(self.validation) && has(self.train))",
            "split holds out rows from train: give train, and no validation",
            lambda s: s.split is None or (s.validation is None and s.train is not None),
        ),
        Rule(
            "!has(self.split) || has(self.split.seed)",
            "split needs the seed with which the members held out the same rows",
            lambda s: s.split is None or s.split.seed is not None,
        ),
    )
    train: DataInput | None = None
    """Training rows of the members: for split, and to estimate batch normalisation anew for averaged weights."""
    validation: DataInput | None = None
    """Rows for the metrics with the prefix eval_, in a separate file."""
    split: ValidationSplit | None = None
    """Rows for the metrics with the prefix eval_: those that every member held out from train."""
    test: DataInput | None = None
    """Rows for the metrics with the prefix test_."""
    columns: ColumnsSpec = ColumnsSpec()
    """Names of the columns in the data files."""
    rows: RowFormat | None = None
    """What a row holds, as for the members. Conversations are written with the chat template of the members' tokenizer."""
    preprocessing: PreprocessingSpec = PreprocessingSpec()
    """Preprocessing of texts. Use the same settings as for training the members."""
    max_invalid_rows: MaxInvalidRows = "0"
    """Maximum number of invalid rows to skip: a count, or a share such as 1%."""


class CombinePaths(ApiModel):
    """Output folders. None may be inside another; modelDir and stagingDir must be on one file system, because a rename publishes the model."""

    model_dir: Path
    """Folder of the combined model. Exists only once it is complete."""
    staging_dir: Path
    """Folder in which the model is written before the rename."""
    hub_dir: Path | None = None
    """Download folder for data from the Hugging Face Hub. Default: huggingface_hub's cache."""
    token_dir: Annotated[Path | None, Field(exclude_if=lambda path: path is None)] = None
    """Folder with the tokenized rows that the members, or the trials of a search, shared. Removed once the model is published, if it is next to stagingDir."""
    uri: str | None = None
    """URI of the folder that the user gave."""


class CombineConfig(ApiModel):
    """Configuration of one combination."""

    rules = (
        Rule(
            "!has(self.devices) || self.devices.gpus <= 1 || has(self.student)",
            "combining uses one process, which evaluates one member at a time; set devices.gpus to 0 or 1",
            lambda s: s.devices.gpus <= 1 or s.student is not None,
        ),
        Rule(
            "(self.combine == 'Distil') == has(self.student)",
            "combine: Distil trains the model that student describes: set both, or neither",
            lambda s: (s.combine is CombineRule.DISTIL) == (s.student is not None),
        ),
        Rule(
            "!has(self.student) || !has(self.student.distil) || !has(self.student.distil.temperature)"
            " || !has(self.objective.regression)",
            "student.distil.temperature is for probabilities, and objective.regression predicts numbers; remove it",
            lambda s: (
                s.student is None or s.student.distil.temperature is None or s.objective.regression is None
            ),
        ),
        Rule(
            "!has(self.student) || (has(self.dataset.train) && (has(self.dataset.validation) || has(self.dataset.split)))",
            "the student needs dataset.train, and dataset.validation or dataset.split to be evaluated while it trains",
            lambda s: (
                s.student is None
                or (
                    s.dataset.train is not None
                    and (s.dataset.validation is not None or s.dataset.split is not None)
                )
            ),
        ),
        Rule(
            "(self.publish == 'Always' && self.combine != 'GreedySoup')"
            " || has(self.dataset.validation) || has(self.dataset.split)",
            "publish: IfBetter and GreedySoup compare on validation rows; give dataset.validation or dataset.split,"
            " or set publish: Always and another rule",
            lambda s: (
                (s.publish is Publish.ALWAYS and s.combine is not CombineRule.GREEDY_SOUP)
                or s.dataset.validation is not None
                or s.dataset.split is not None
            ),
        ),
        Rule(
            "self.combine != 'Vote' || !(self.bestMetric in ['loss', 'eval_loss'])",
            VOTES_HAVE_NO_LOSS.format("bestMetric"),
            lambda s: s.combine is not CombineRule.VOTE or plain(s.best_metric) != "loss",
        ),
        *only_for_language_models(),
    )
    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["CombineConfig"]
    """Distinguishes this file from a RunConfig."""
    job: JobIdentity
    members: Annotated[list[MemberInput], Field(min_length=2, max_length=100)]
    """Models to combine. All must have the same objective, labels and tokenizer."""
    combine: CombineRule
    """AverageProbabilities or Vote for classifiers. AveragePredictions for regression. AverageWeights makes a model soup (Wortsman et al. 2022) of models with the same architecture that were fine-tuned from the same weights. GreedySoup adds to the best member, one after the other, those that do not make the soup worse on the validation rows. Distil trains a student, one model that learns the mean of the members' outputs (Hinton et al. 2015)."""
    gate: Annotated[GateSpec | None, Field(exclude_if=lambda gate: gate is None)] = None
    """What the published model must reach: min or max of a metric."""
    student: Annotated[StudentInput | None, Field(exclude_if=lambda student: student is None)] = None
    """The student of combine: Distil."""
    publish: Publish = Publish.IF_BETTER
    """IfBetter publishes the best member instead if the combination is not better than it on the validation rows. Always publishes the combination."""
    best_metric: MetricName = "eval_loss"
    """Metric that decides which is better."""
    missing: Annotated[list[ShortText], Field(max_length=100)] = []
    """Names of members that failed and are not combined, for the model card."""
    dataset: CombineData
    objective: ObjectiveSpec
    """Objective of the members."""
    metrics: Annotated[list[MetricName], Field(max_length=METRICS_REPORTED)] | None = None
    """Metrics to report in addition to the loss. Default: as for training."""
    search: SearchHistory | None = None
    """The search whose best trials are the members, for its report."""
    output: CombinePaths
    devices: Devices = Devices()
    precision: Precision = Precision.AUTO
    progress: ProgressEndpoint | None = None
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the /metrics endpoint. 0 disables it."""
    termination_log: Path | None = None
    """File to write the RunReport to. Not needed on a laptop."""
