"""The interface between operator and trainer: RunConfig in, RunReport and ExitCode out.

In a cluster both sides may have different versions, and a person may write a RunConfig by hand for a run on a
laptop. So this is a file format: all paths explicit, versioned, frozen by a golden file in the tests.
"""

from collections.abc import Iterator
from enum import IntEnum, StrEnum
from typing import Annotated, Literal, NamedTuple

from pydantic import ConfigDict, Field

from finetune_api import API_VERSION
from finetune_api.base import ApiModel, Message, Rule
from finetune_api.dataset import ColumnsSpec, DataFormat, MaxInvalidRows, PreprocessingSpec, RowFormat
from finetune_api.gate import GateSpec
from finetune_api.metrics import plain
from finetune_api.model import Dtype, ModelTechniques, frozen_weights_fit_sharding
from finetune_api.objective import ObjectiveSpec, only_for_language_models
from finetune_api.resources import LARGEST_NODES
from finetune_api.status import (
    LARGEST_ATTEMPT,
    LARGEST_COUNT,
    BaselineStatus,
    CheckpointStatus,
    Commit,
    Digest,
    EarlyStoppedStatus,
    EffectiveStatus,
    EpochStatus,
    ForgettingStatus,
    ImprovementStatus,
    ModelStatus,
    PreflightFindings,
    ProgressStatus,
    RandomSearchStatus,
    Reason,
    ResolvedStatus,
)
from finetune_api.tensor_parallel import tensor_parallel_fits
from finetune_api.training import FORGETTING_SETS, TrainingSpec
from finetune_api.uris import is_hub

RUN_CONFIG_PATH = "/etc/finetune/run.json"
TERMINATION_LOG = "/dev/termination-log"
TERMINATION_BYTES = 3500
"""The kubelet keeps the last 4,096 bytes of a termination message; truncated JSON could not be parsed."""
PROGRESS_BYTES = 48 * 1024
"""Maximum size of the report in a progress POST; the operator accepts bodies of 64 KiB."""

Path = Annotated[str, Field(min_length=1, max_length=4096)]
InputPath = Annotated[str, Field(max_length=4096, exclude_if=lambda path: path == "")]
"""Omitted for an hf:// URI until the download has finished; then the path of the download."""
_HAS_PATH = Rule(
    "has(self.path) || (has(self.uri) && self.uri.startsWith('hf://'))",
    "give path, or a uri that begins with hf://",
    lambda s: s.path != "" or is_hub(s.uri),
)


class ExitCode(IntEnum):
    """Exit codes of the trainer, modelled on sysexits.h."""

    DONE = 0
    CONFIGURATION = 64
    DATA = 65
    NOT_FOUND = 66
    NO_GPU = 69
    FAULT = 70
    OUT_OF_MEMORY = 71
    DIVERGED = 72
    STORAGE = 74
    INTERRUPTED = 75
    PEER_LOST = 76
    PRUNED = 77
    """Ended by the response to a progress POST."""
    GATE_NOT_PASSED = 78
    STALLED = 79
    """Ended by the trainer's own watch, because no step was taken for too long."""


class Retry(StrEnum):
    """Whether another attempt follows a failed one."""

    NEVER = "no"
    COUNTED = "yes"
    FREE = "yes, not counted"


class Ending(NamedTuple):
    """What an exit code of the trainer stands for."""

    meaning: str
    reason: Reason
    retry: Retry


ENDINGS = {
    ExitCode.DONE: Ending("done", Reason.SUCCEEDED, Retry.NEVER),
    ExitCode.CONFIGURATION: Ending("invalid configuration", Reason.CONFIGURATION_ERROR, Retry.NEVER),
    ExitCode.DATA: Ending("invalid data", Reason.DATA_ERROR, Retry.NEVER),
    ExitCode.NOT_FOUND: Ending("model or data not found", Reason.NOT_FOUND, Retry.NEVER),
    ExitCode.NO_GPU: Ending("fewer GPUs visible than requested", Reason.GPUS_NOT_SEEN, Retry.COUNTED),
    ExitCode.FAULT: Ending("a bug in the trainer", Reason.TRAINER_FAULT, Retry.COUNTED),
    ExitCode.OUT_OF_MEMORY: Ending("out of memory", Reason.OUT_OF_MEMORY, Retry.NEVER),
    ExitCode.DIVERGED: Ending("NaN or infinite loss or gradient", Reason.DIVERGED, Retry.NEVER),
    ExitCode.STORAGE: Ending("writing failed", Reason.STORAGE_FAILED, Retry.COUNTED),
    ExitCode.INTERRUPTED: Ending("stopped", Reason.INTERRUPTED, Retry.FREE),
    ExitCode.PEER_LOST: Ending("another process of the run was lost", Reason.PEER_LOST, Retry.COUNTED),
    ExitCode.PRUNED: Ending("pruned", Reason.PRUNED, Retry.NEVER),
    ExitCode.GATE_NOT_PASSED: Ending(
        "the model does not pass spec.gate and is not published", Reason.GATE_NOT_PASSED, Retry.NEVER
    ),
    ExitCode.STALLED: Ending("no step for too long", Reason.STALLED, Retry.COUNTED),
}
"""The one table of exit codes: the operator classifies by it, and tests compare the pages with it."""


class JobIdentity(ApiModel):
    """The job and attempt that a run belongs to."""

    namespace: str = "local"
    """Namespace of the FineTuneJob."""
    name: str
    """Name of the FineTuneJob."""
    uid: str = "local"
    """uid of the FineTuneJob, so that two jobs with the same name never share checkpoints."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """Number of the attempt. Fences off pods of older attempts."""


class ModelInput(ModelTechniques):
    """The base model as files."""

    rules = (*ModelTechniques.rules, _HAS_PATH)
    path: InputPath = ""
    """Folder with config.json, weights and tokenizer. Omit it for an hf:// uri."""
    tokenizer_path: Path | None = None
    """Folder of a tokenizer that replaces the model's own."""
    uri: str | None = None
    """URI that the user gave, for messages and the model card. hf://ORG/NAME@REVISION is downloaded."""
    revision: Commit | None = None
    """Commit that uri resolved to in an earlier attempt, so that a retry uses the same files."""
    tokenizer_uri: str | None = None
    """URI of the tokenizer that the user gave. hf://ORG/NAME@REVISION is downloaded."""
    tokenizer_revision: Commit | None = None
    """Commit that tokenizerUri resolved to in an earlier attempt."""
    add_tokens: Annotated[list[str], Field(max_length=1000)] = []
    """Tokens to add to the vocabulary."""


class DataInput(ApiModel):
    """A data file, or several that are read as one."""

    rules = (_HAS_PATH,)
    path: InputPath = ""
    """Path of the file or folder. In its last part, * and ? match several files. Omit it for an hf:// uri."""
    uri: str | None = None
    """URI that the user gave, for messages. hf://datasets/ORG/NAME@REVISION/PATH is downloaded."""
    revision: Commit | None = None
    """Commit that uri resolved to in an earlier attempt, so that a retry uses the same file."""
    format: DataFormat | None = None
    """File format: jsonl, json, csv, parquet, arrow or text. Default: inferred from the file extension."""


class ValidationSplit(ApiModel):
    """Hold out a share of the training rows for validation."""

    fraction: Annotated[float, Field(gt=0, le=0.9)] = 0.1
    """Share of the rows to hold out."""
    stratify: bool | None = None
    """Stratified split: keep the proportions of the labels. Default: true for classification without groupBy."""
    group_by: str | None = None
    """Column to group by: rows with the same value stay on the same side of the split."""
    seed: Annotated[int | None, Field(ge=0, le=2**31 - 1, exclude_if=lambda seed: seed is None)] = None
    """Seed of the split. Default: training.seed."""


class DatasetInput(ApiModel):
    """The data as files."""

    rules = (
        Rule(
            "!has(self.validation) || !has(self.split)",
            "give either dataset.validation, a file, or dataset.split, a share of the training file",
            lambda s: s.validation is None or s.split is None,
        ),
    )
    train: DataInput
    """Training rows."""
    validation: DataInput | None = None
    """Validation rows in a separate file."""
    split: ValidationSplit | None = None
    """Validation rows held out from train. Default if there is no validation file."""
    test: DataInput | None = None
    """Test rows."""
    forgetting: Annotated[
        list[DataInput], Field(max_length=FORGETTING_SETS, exclude_if=lambda sets: not sets)
    ] = []
    """Files of training.evaluation.forgetting, in its order."""
    columns: ColumnsSpec = ColumnsSpec()
    """Names of the columns in the data files."""
    rows: RowFormat | None = None
    """What a row holds: Text, Messages, PromptCompletion, ShareGPT or Alpaca. Default: Auto, by the columns."""
    chat_template_path: Path | None = None
    """File with a chat template, where objective.causalLM.chatTemplate is its URI."""
    preprocessing: PreprocessingSpec = PreprocessingSpec()
    """Text cleaning, truncation, deduplication and packing."""
    max_invalid_rows: MaxInvalidRows = "0"
    """Maximum number of invalid rows to skip: a count, or a share such as 1%."""


class OutputPaths(ApiModel):
    """Output folders. None may be inside another; modelDir and stagingDir must be on one file system, because a rename publishes the model."""

    model_dir: Path
    """Folder of the model. Exists only once it is complete."""
    staging_dir: Path
    """Folder in which the model is written before the rename, in one subfolder per process. The subfolders are removed."""
    checkpoint_dir: Path
    """Folder of the checkpoints, for example step-00000400. They are removed after success."""
    hub_dir: Path | None = None
    """Download folder for files from the Hugging Face Hub. Removed with the checkpoints if it is next to them. Default: huggingface_hub's cache."""
    token_dir: Annotated[Path | None, Field(exclude_if=lambda path: path is None)] = None
    """Folder for tokenized rows that several runs share, such as the trials of a search. Nothing removes it. Default: next to the checkpoints, removed with them."""
    uri: str | None = None
    """URI of the model that the user gave."""
    dtype: Annotated[Dtype, Field(exclude_if=lambda dtype: dtype is Dtype.AUTO)] = Dtype.AUTO
    """Number format of the published weights: Float32, BFloat16 (half the size), or Auto for that of the base model. Training always updates the weights in float32."""


class Devices(ApiModel):
    """Devices to train on."""

    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    """Number of GPUs that must be visible. 0 trains on the CPU."""
    simulated: bool = False
    """The GPUs are simulated for the scheduler: train on the CPU and report it."""
    max_micro_batch_size: Annotated[int | None, Field(ge=1, exclude_if=lambda size: size is None)] = None
    """Largest micro-batch size, because an earlier attempt used more memory than its pod may. It changes no result."""

    @property
    def on_gpu(self) -> bool:
        """Whether the run computes on GPUs."""
        return self.gpus > 0 and not self.simulated


class NodesInput(ApiModel):
    """The nodes of a run on several of them. Each runs the trainer with the same file; the variable PET_NODE_RANK says which one it is, from 0."""

    count: Annotated[int, Field(ge=2, le=LARGEST_NODES)]
    """Number of nodes."""
    address: Annotated[str, Field(min_length=1, max_length=253)]
    """Host name or IP address of node 0, where the processes meet."""
    port: Annotated[int, Field(ge=1024, le=65535)] = 29500
    """Port of node 0 where they meet."""


class ProgressEndpoint(ApiModel):
    """Endpoint for progress reports. A run never fails because of it."""

    url: str
    """HTTPS URL."""
    token_path: Path
    """File with the bearer token, which the kubelet renews."""
    ca_path: Path
    """File with the certificate authority of the endpoint."""


Temperature = Annotated[float, Field(ge=1, le=100)]


class DistillationInput(ApiModel):
    """The outputs of other models for the training rows, which a student learns beside the labels."""

    outputs: Path
    """File (.npy) with their mean: float32 (rows, outputs), for token classification (tokens, outputs), in the order of the rows. Probabilities, for regression numbers in original units."""
    digest: Digest
    """SHA-256 digest of the file."""
    rows_digest: Digest
    """SHA-256 digest of the tokens that they are for, and of the labels. A run with other rows, tokens or labels fails."""
    temperature: Temperature
    """Temperature of the probabilities."""
    alpha: Annotated[float, Field(gt=0, le=1)]
    """Share of these outputs in the loss. The labels have the share 1 - alpha."""


def _measured(training: TrainingSpec) -> set[str]:
    spec = training.evaluation
    return {plain(name) for name in ["loss", spec.best_metric, *(spec.metrics or [])]}


class RunConfig(ApiModel):
    """Configuration of one training run."""

    rules = (
        *only_for_language_models(),
        frozen_weights_fit_sharding(),
        *tensor_parallel_fits(),
        Rule(
            "!has(self.gate) || self.gate.metric in self.training.evaluation.metrics",
            "training.evaluation.metrics must contain gate.metric",
            lambda s: s.gate is None or plain(s.gate.metric) in _measured(s.training),
            ".gate.metric",
        ),
        Rule(
            "!has(self.gate) || !has(self.gate.betterThanBaselineBy) || self.training.evaluation.baseline",
            "gate.betterThanBaselineBy needs training.evaluation.baseline: true",
            lambda s: (
                s.gate is None
                or s.gate.better_than_baseline_by is None
                or bool(s.training.evaluation.baseline)
            ),
            ".gate",
        ),
        Rule(
            "size(self.training.evaluation.forgetting) == size(self.dataset.forgetting)",
            "dataset.forgetting must have a file for each entry of training.evaluation.forgetting",
            lambda s: len(s.training.evaluation.forgetting) == len(s.dataset.forgetting),
            ".dataset.forgetting",
        ),
    )
    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["RunConfig"] = "RunConfig"
    job: JobIdentity
    model: ModelInput
    dataset: DatasetInput
    objective: ObjectiveSpec
    training: TrainingSpec = TrainingSpec()
    distillation: Annotated[
        DistillationInput | None, Field(exclude_if=lambda distillation: distillation is None)
    ] = None
    """Outputs of other models to learn, for the student of an ensemble."""
    gate: Annotated[GateSpec | None, Field(exclude_if=lambda gate: gate is None)] = None
    """What the model must reach to be published."""
    output: OutputPaths
    devices: Devices = Devices()
    """Devices of each node."""
    nodes: Annotated[NodesInput | None, Field(exclude_if=lambda nodes: nodes is None)] = None
    """The nodes of a run on several of them. They share the folders of output."""
    progress: ProgressEndpoint | None = None
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the /metrics endpoint. 0 disables it."""
    termination_log: Path | None = None
    """File to write the RunReport to. Not needed on a laptop."""


class FaultPlace(ApiModel):
    """Place of an error in the user's input."""

    field: str | None = None
    """Field of the spec."""
    file: str | None = None
    """Path or URI of the file."""
    row: int | None = None
    """Row of the file, counted from 1."""
    column: str | None = None
    """Column in the row."""


NOTES_KEPT, NOTE_LENGTH = 4, 320
Note = Annotated[str, Field(max_length=NOTE_LENGTH)]


class ReachedStep(ApiModel):
    """The newest step of an attempt that a file beside the checkpoints tells of."""

    attempt: Annotated[int, Field(ge=1, le=LARGEST_ATTEMPT)]
    step: Annotated[int, Field(ge=0, le=LARGEST_COUNT)]


class RunReport(ApiModel):
    """Result or progress of a run: the termination message, and the body of a progress POST."""

    version: Literal[1] = 1
    attempt: int = 1
    exit_code: ExitCode | None = None
    """Absent until the run ends."""
    message: Message = ""
    """One sentence: what happened, where, and the remedy."""
    notes: Annotated[list[Note], Field(max_length=NOTES_KEPT, exclude_if=lambda notes: not notes)] = []
    """What a user should know of the result: data that looks wrong, metrics that are not defined, models that were removed. The message has it too."""
    place: FaultPlace | None = None
    traceback: Annotated[str, Field(max_length=2000)] | None = None
    """Last lines of the traceback, for a bug in the trainer."""
    from_step: int | None = None
    reached: Annotated[ReachedStep | None, Field(exclude_if=lambda reached: reached is None)] = None
    """How far the attempt before had come, whose last steps may be in no report."""
    progress: ProgressStatus | None = None
    best: CheckpointStatus | None = None
    latest: CheckpointStatus | None = None
    early_stopped: EarlyStoppedStatus | None = None
    epochs: list[EpochStatus] = []
    resolved: ResolvedStatus | None = None
    effective: EffectiveStatus | None = None
    baseline: Annotated[BaselineStatus | None, Field(exclude_if=lambda part: part is None)] = None
    improvement: Annotated[ImprovementStatus | None, Field(exclude_if=lambda part: part is None)] = None
    forgetting: Annotated[list[ForgettingStatus], Field(exclude_if=lambda sets: not sets)] = []
    model: ModelStatus | None = None
    random_search: RandomSearchStatus | None = None
    """For the parent of a search: what its report says of random search."""
    preflight: PreflightFindings | None = None
    """Of a preflight: what it found."""


class Prune(ApiModel):
    """Prune a trial: end it early because others are better."""

    model_config = ConfigDict(extra="ignore")
    reason: Annotated[str, Field(min_length=1, max_length=512)]
    """Reason, as part of a sentence; the trainer's final message repeats it."""


class ProgressAnswer(ApiModel):
    """Response to a progress POST. Unknown fields from a newer operator are ignored, and so is an empty response."""

    model_config = ConfigDict(extra="ignore")
    prune: Prune | None = None
    """End training at the next step without publishing a model. Absent to continue."""


class _Drop(StrEnum):
    """Parts that are dropped, in this order, when a report is too long. `best`, the objective of a search, is kept."""

    TRACEBACK = "traceback"
    EPOCHS = "epochs"
    EFFECTIVE = "effective"
    RESOLVED = "resolved"
    EARLY_STOPPED = "early_stopped"
    LATEST = "latest"
    PROGRESS = "progress"
    BASELINE = "baseline"
    FORGETTING = "forgetting"
    RANDOM_SEARCH = "random_search"
    PLACE = "place"
    NOTES = "notes"


def to_message(report: RunReport, limit: int = TERMINATION_BYTES) -> str:
    """The report as JSON of at most `limit` bytes of UTF-8. The least important parts are dropped first.

    The exit code, the best value with its step, and the message are always kept.
    """
    text = _dump(report)
    for shorter in _shortened(report):
        if len(text.encode()) <= limit:
            return text
        text = _dump(shorter)
    return text


def _shortened(report: RunReport) -> Iterator[RunReport]:
    """Shorter and shorter versions: without parameter groups, reasons of invalid rows, older evaluations, warnings of preflight, whole parts, the end of the message."""
    if report.effective and report.effective.parameter_groups:
        effective = report.effective.model_copy(update={"parameter_groups": None})
        report = report.model_copy(update={"effective": effective})
        yield report
    if report.resolved and report.resolved != (shorter := report.resolved.without_invalid_reasons()):
        report = report.model_copy(update={"resolved": shorter})
        yield report
    while len(report.epochs) > 1:
        report = report.model_copy(update={"epochs": report.epochs[(len(report.epochs) + 1) // 2 :]})
        yield report
    while report.preflight and report.preflight.warnings:
        fewer = report.preflight.model_copy(update={"warnings": report.preflight.warnings[:-1]})
        report = report.model_copy(update={"preflight": fewer})
        yield report
    for part in _Drop:
        report = report.model_copy(update={part.value: RunReport.model_fields[part.value].get_default()})
        yield report
    while len(report.message) > 128:
        report = report.model_copy(update={"message": report.message[: len(report.message) // 2]})
        yield report
    if report.model:
        report = report.model_copy(update={"model": report.model.model_copy(update={"metrics": {}})})
        yield report
    yield RunReport(
        attempt=report.attempt, exit_code=report.exit_code, message=report.message, best=report.best
    )


def _dump(report: RunReport) -> str:
    return report.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=True)
