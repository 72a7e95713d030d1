"""What crosses the border between operator and trainer: RunConfig in, RunReport and ExitCode out.

Both sides may be of different versions in a cluster, and a person may write a RunConfig by hand for a run on a
laptop, so this is a file format: every path explicit, versioned, frozen by a golden file in the tests.
"""

from collections.abc import Iterator
from enum import IntEnum, StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from finetune_api import API_VERSION
from finetune_api.base import ApiModel, Rule
from finetune_api.dataset import ColumnsSpec, DataFormat, MaxInvalidRows, PreprocessingSpec
from finetune_api.model import AdapterSpec, FreezeSpec, HeadSpec, Initialize
from finetune_api.objective import ObjectiveSpec, only_for_causal_lm
from finetune_api.status import (
    CheckpointStatus,
    Commit,
    EarlyStoppedStatus,
    EffectiveStatus,
    EpochStatus,
    Metrics,
    ModelStatus,
    ProgressStatus,
    ResolvedStatus,
)
from finetune_api.training import TrainingSpec
from finetune_api.uris import is_hub

RUN_CONFIG_PATH = "/etc/finetune/run.json"
TERMINATION_LOG = "/dev/termination-log"
TERMINATION_BYTES = 3500
"""The kubelet keeps the last 4,096 bytes of a termination message; a cut JSON would be a lost one."""
PROGRESS_BYTES = 48 * 1024
"""Of the report in a progress POST; the operator takes bodies of 64 KiB."""

Path = Annotated[str, Field(min_length=1, max_length=4096)]
InputPath = Annotated[str, Field(max_length=4096, exclude_if=lambda path: path == "")]
"""Left out where the uri names something on the Hub: it is where the download lies then."""
_HAS_PATH = Rule(
    "has(self.path) || (has(self.uri) && self.uri.startsWith('hf://'))",
    "give path, or a uri that begins with hf://",
    lambda s: s.path != "" or is_hub(s.uri),
)


class ExitCode(IntEnum):
    """Exit codes of the trainer, in the manner of sysexits.h."""

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
    PRUNED = 77
    """Ended by an answer to a progress POST; 76 stays within the trainer: a process that lost another one."""


class JobIdentity(ApiModel):
    """The job and attempt that a run belongs to."""

    namespace: str = "local"
    """Namespace of the FineTuneJob."""
    name: str
    """Name of the FineTuneJob."""
    uid: str = "local"
    """uid of the FineTuneJob: two jobs of the same name never share checkpoints."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """Number of the attempt: the fence against pods of older attempts."""


class ModelInput(ApiModel):
    """The base model as files."""

    rules = (_HAS_PATH,)
    path: InputPath = ""
    """Folder with config.json, weights and tokenizer; left out where uri is hf://."""
    tokenizer_path: Path | None = None
    """Folder of another tokenizer."""
    uri: str | None = None
    """Where the user says it lies; for messages and the card. hf://ORG/NAME@REVISION is downloaded."""
    revision: Commit | None = None
    """Commit that an earlier attempt found behind uri; a retry trains from the same files."""
    tokenizer_uri: str | None = None
    """Where the user says that the other tokenizer lies; hf://ORG/NAME@REVISION is downloaded."""
    tokenizer_revision: Commit | None = None
    """Commit that an earlier attempt found behind tokenizerUri."""
    initialize: Initialize = Initialize.PRETRAINED
    """Pretrained or Random."""
    freeze: FreezeSpec | None = None
    """Parts that are not trained."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout probability."""
    add_tokens: Annotated[list[str], Field(max_length=1000)] = []
    """More tokens for the tokenizer."""
    layer_learning_rate_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Multiple of the rate from layer to layer, downwards."""
    head: HeadSpec | None = None
    """Layers between the encoder and the outputs."""
    adapter: AdapterSpec | None = None
    """Small trained parts in a frozen model."""


class DataInput(ApiModel):
    """A data file."""

    rules = (_HAS_PATH,)
    path: InputPath = ""
    """The file; left out where uri is hf://."""
    uri: str | None = None
    """Where the user says it lies; for messages. hf://datasets/ORG/NAME@REVISION/PATH is downloaded."""
    revision: Commit | None = None
    """Commit that an earlier attempt found behind uri; a retry trains on the same file."""
    format: DataFormat | None = None
    """jsonl, csv, parquet or text; default by the ending."""


class ValidationSplit(ApiModel):
    """Hold out a share of the training rows."""

    fraction: Annotated[float, Field(gt=0, le=0.9)] = 0.1
    """Share of the rows."""
    stratify: bool | None = None
    """Keep the labels' proportions; default: for classification without groupBy."""
    group_by: str | None = None
    """Column whose equal values stay together."""


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
    """Validation rows in a file of their own."""
    split: ValidationSplit | None = None
    """Validation rows held out of train; the default where there is no validation file."""
    test: DataInput | None = None
    """Test rows."""
    columns: ColumnsSpec = ColumnsSpec()
    """Which columns hold what."""
    preprocessing: PreprocessingSpec = PreprocessingSpec()
    """How texts are prepared."""
    max_invalid_rows: MaxInvalidRows = "0"
    """A count or a share such as 1%."""


class OutputPaths(ApiModel):
    """Where the run writes: no folder in another, the first two on one file system, so that a rename publishes."""

    model_dir: Path
    """The model's folder; exists only once it is complete."""
    staging_dir: Path
    """Where the model is put together before the rename, in a folder of each process; those are removed."""
    checkpoint_dir: Path
    """Checkpoints: step-00000400, …; removed after success."""
    hub_dir: Path | None = None
    """What is downloaded from the Hub; removed with the checkpoints where it lies beside them. Default: huggingface_hub's own cache."""
    uri: str | None = None
    """Where the user says the model lies."""


class Devices(ApiModel):
    """What computes."""

    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    """GPUs that must be there; 0 trains on the CPU."""
    simulated: bool = False
    """The GPUs only exist for the scheduler; compute on the CPU and say so."""


class ProgressEndpoint(ApiModel):
    """Where progress is posted; losing it is never a failure."""

    url: str
    """HTTPS address."""
    token_path: Path
    """File with the bearer token, renewed by the kubelet."""
    ca_path: Path
    """File with the endpoint's certificate authority."""


class RunConfig(ApiModel):
    """All that one run needs."""

    rules = only_for_causal_lm()
    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["RunConfig"] = "RunConfig"
    job: JobIdentity
    model: ModelInput
    dataset: DatasetInput
    objective: ObjectiveSpec
    training: TrainingSpec = TrainingSpec()
    output: OutputPaths
    devices: Devices = Devices()
    progress: ProgressEndpoint | None = None
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of /metrics; 0 serves none."""
    termination_log: Path | None = None
    """File that gets the RunReport; none on a laptop."""


class FaultPlace(ApiModel):
    """Where in the user's input a fault lies."""

    field: str | None = None
    """Field of the spec."""
    file: str | None = None
    """File or URI."""
    row: int | None = None
    """Line of the file, from 1."""
    column: str | None = None
    """Column of the row."""


class RunReport(ApiModel):
    """How a run ended, or how far it is: the termination message, and the body of a progress POST."""

    version: Literal[1] = 1
    attempt: int = 1
    exit_code: ExitCode | None = None
    """Absent while the run lasts."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """One sentence: what happened, where, what to change."""
    place: FaultPlace | None = None
    traceback: Annotated[str, Field(max_length=2000)] | None = None
    """The last lines, for a fault of the trainer's own."""
    from_step: int | None = None
    progress: ProgressStatus | None = None
    best: CheckpointStatus | None = None
    latest: CheckpointStatus | None = None
    early_stopped: EarlyStoppedStatus | None = None
    epochs: list[EpochStatus] = []
    resolved: ResolvedStatus | None = None
    effective: EffectiveStatus | None = None
    model: ModelStatus | None = None
    metrics: Metrics = {}


class Prune(ApiModel):
    """A trial is to end here: others do better."""

    model_config = ConfigDict(extra="ignore")
    reason: Annotated[str, Field(min_length=1, max_length=512)]
    """Why, as a part of a sentence; the trainer's last words repeat it."""


class ProgressAnswer(ApiModel):
    """The answer to a progress POST. What a newer operator says besides is passed over, and so is silence."""

    model_config = ConfigDict(extra="ignore")
    prune: Prune | None = None
    """End training at the next step without a model; absent to go on."""


class _Drop(StrEnum):
    """Parts of a report that give way, in this order, when it is too long. `best`, the goal of a search, is none."""

    TRACEBACK = "traceback"
    EPOCHS = "epochs"
    METRICS = "metrics"
    EFFECTIVE = "effective"
    RESOLVED = "resolved"
    EARLY_STOPPED = "early_stopped"
    LATEST = "latest"
    PROGRESS = "progress"
    PLACE = "place"


def to_message(report: RunReport, limit: int = TERMINATION_BYTES) -> str:
    """The report as JSON of at most `limit` bytes of UTF-8: what matters least is left out first.

    How it ended, the goal with its step, and a sentence stay in any case.
    """
    text = _dump(report)
    for shorter in _shortened(report):
        if len(text.encode()) <= limit:
            return text
        text = _dump(shorter)
    return text


def _shortened(report: RunReport) -> Iterator[RunReport]:
    """The report ever shorter: without the parameter groups, the older evaluations, whole parts, with less of the message."""
    if report.effective and report.effective.parameter_groups:
        effective = report.effective.model_copy(update={"parameter_groups": None})
        report = report.model_copy(update={"effective": effective})
        yield report
    while len(report.epochs) > 1:
        report = report.model_copy(update={"epochs": report.epochs[(len(report.epochs) + 1) // 2 :]})
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
