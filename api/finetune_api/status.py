"""`status`: what the operator says of a job. Written by the operator only; no logic of anyone's reads `phase` or `display`."""

import math
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

from finetune_api.base import ApiModel, Message, ShortText, Unique
from finetune_api.resources import ResourcesSpec
from finetune_api.training import TrainingSpec


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _finite(value: Any) -> Any:
    """Leave out what JSON cannot say: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: number for key, number in value.items() if _finite(number) is not None}
    return None if isinstance(value, float) and not math.isfinite(value) else value


Time = Annotated[datetime, PlainSerializer(_rfc3339, when_used="json")]
Measured = Annotated[float | None, BeforeValidator(_finite)]
"""A measured number; None where it was not finite."""
Metrics = Annotated[
    dict[Annotated[str, Field(max_length=64)], float], Field(max_length=32), BeforeValidator(_finite)
]
Uri = Annotated[str, Field(max_length=512)]
Digest = Annotated[str, Field(max_length=80)]
Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$", max_length=40)]
Count = Annotated[int, Field(ge=0, le=9_007_199_254_740_991)]


class Phase(StrEnum):
    """One word for people."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """Condition types. Reconciling and Stalled are present only while True (kstatus); the others always."""

    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"
    SUSPENDED = "Suspended"
    FINISHED = "Finished"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Reason(StrEnum):
    """Why a condition, or an attempt, is as it is."""

    ACCEPTED = "Accepted"
    STARTING = "Starting"
    PENDING = "Pending"
    UNSCHEDULABLE = "Unschedulable"
    CLAIM_NOT_BOUND = "ClaimNotBound"
    MISSING_OBJECT = "MissingObject"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    WAITING_TO_RETRY = "WaitingToRetry"
    STOPPING = "Stopping"
    RUNNING = "Running"
    NOT_SUSPENDED = "NotSuspended"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    NOT_FINISHED = "NotFinished"
    FAILED = "Failed"
    INVALID_SPEC = "InvalidSpec"
    IMAGE_NOT_ALLOWED = "ImageNotAllowed"
    CHILD_NAME_CONFLICT = "ChildNameConflict"
    CHILD_REFUSED = "ChildRefused"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    CONFIGURATION_ERROR = "ConfigurationError"
    DATA_ERROR = "DataError"
    NOT_FOUND = "NotFound"
    GPUS_NOT_SEEN = "GPUsNotSeen"
    TRAINER_FAULT = "TrainerFault"
    OUT_OF_MEMORY = "OutOfMemory"
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    DIVERGED = "Diverged"
    PRUNED = "Pruned"
    STORAGE_FAILED = "StorageFailed"
    INTERRUPTED = "Interrupted"
    PREEMPTED = "Preempted"
    POD_LOST = "PodLost"
    KILLED = "Killed"
    CRASHED = "Crashed"
    SCRIPT_FAILED = "ScriptFailed"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """A condition as in metav1.Condition."""

    type: ConditionType
    """Running, Complete, Failed, Suspended, Finished, Reconciling or Stalled."""
    status: Annotated[str, Field(pattern="^(True|False|Unknown)$", max_length=7)]
    """True, False or Unknown."""
    reason: Annotated[str, Field(max_length=64)]
    """Why, in one CamelCase word."""
    message: Message
    """Why, in one sentence, with what to change."""
    last_transition_time: Time
    """When status changed last."""
    observed_generation: Count
    """Generation of the spec that this speaks of."""


class AttemptStatus(ApiModel):
    """One attempt: one Job."""

    number: Count
    """1 for the first."""
    reason: ShortText | None = None
    """How it ended; absent while it lasts."""
    message: Message | None = None
    """How it ended, in one sentence."""
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    """Exit code of the training container."""
    counted: bool | None = None
    """Whether it counts against spec.retry.limit."""
    node: ShortText | None = None
    """The node it ran on."""
    start_time: Time | None = None
    """When the operator began it."""
    running_time: Time | None = None
    """When its container started."""
    end_time: Time | None = None
    """When its last pod was gone."""
    from_step: Count | None = None
    """The optimizer step of the checkpoint it went on from; 0 for a fresh start."""
    to_step: Count | None = None
    """The last optimizer step it reported."""


class DisplayStatus(ApiModel):
    """Texts for the columns of kubectl get."""

    progress: ShortText | None = None
    """Share of the steps done, as 34%."""
    epoch: ShortText | None = None
    """Passes done and planned, as 1.0/3."""
    loss: ShortText | None = None
    """Training loss."""
    best: ShortText | None = None
    """Best value of the deciding metric, as eval_loss 0.410."""
    eta: ShortText | None = None
    """Estimated time left, as 1h52m."""
    gpus: ShortText | None = None
    """Nodes × GPUs, as 1×4."""
    message: Message | None = None
    """What is going on, in one sentence."""


class ProgressStatus(ApiModel):
    """Where training stands, as reported by the trainer."""

    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Share of the steps done."""
    step: Count | None = None
    """Optimizer steps done."""
    total_steps: Count | None = None
    """Optimizer steps planned."""
    epoch: Measured = None
    """Passes over the training data done."""
    loss: Measured = None
    """Training loss."""
    learning_rate: Measured = None
    """Learning rate of the last step."""
    grad_norm: Measured = None
    """Gradient norm of the last step, before clipping."""
    grad_norm_clipped: Measured = None
    """Gradient norm of the last step, after clipping."""
    tokens_per_second: Measured = None
    """Text tokens per second, padding not counted."""
    data_wait_share: Measured = None
    """Share of the last step's time that was spent on building batches."""
    padding_ratio: Measured = None
    """Share of padding in all positions computed so far."""
    memory_bytes: Count | None = None
    """Largest memory so far: allocated by torch on the GPU, or of the process where none computes."""
    eta_seconds: Count | None = None
    """Estimated time left."""
    metrics: Metrics | None = None
    """Further numbers that a script of one's own reports."""
    last_update_time: Time | None = None
    """When the trainer reported this."""


class EpochStatus(ApiModel):
    """One evaluation during training."""

    epoch: float
    """Passes over the training data done."""
    step: Count
    """Optimizer steps done."""
    train_loss: Measured = None
    """Mean training loss since the evaluation before."""
    eval_loss: Measured = None
    """Loss on the validation rows."""
    metrics: Metrics = {}
    """Metrics on the validation rows."""
    seconds: Measured = None
    """Time since the evaluation before."""


class CheckpointStatus(ApiModel):
    """A checkpoint."""

    step: Count
    """Optimizer steps done."""
    metric: ShortText | None = None
    """The deciding metric."""
    value: Measured = None
    """Its value at this checkpoint."""


class EarlyStoppedStatus(ApiModel):
    """Training stopped before its planned end."""

    step: Count
    """Optimizer steps done."""
    metric: ShortText
    """The metric that no longer improved."""
    reason: Message
    """Why, in one sentence."""
    saved_seconds: Count | None = None
    """About how many seconds of a GPU the steps left would have taken, over all GPUs; of the CPU where none computes."""


class ResolvedData(ApiModel):
    """A data file as it was read."""

    uri: Uri | None = None
    """Where it lies."""
    revision: Commit | None = None
    """The commit that hf:// stood for; a retry uses the same."""
    digest: Digest | None = None
    """sha256 of the file."""
    rows: Count | None = None
    """Rows used."""
    invalid_rows: Count | None = None
    """Rows refused."""
    duplicate_rows: Count | None = None
    """Rows dropped as repeated."""


class ResolvedModel(ApiModel):
    """A model or tokenizer as it was read."""

    uri: Uri | None = None
    """Where it lies."""
    revision: Commit | None = None
    """The commit that hf:// stood for; a retry uses the same."""
    digest: Digest | None = None
    """sha256 over the sha256 of its config.json and of each of its *.safetensors; for a tokenizer, of its files."""


class ResolvedStatus(ApiModel):
    """The inputs as they were found."""

    model: ResolvedModel | None = None
    """The base model."""
    tokenizer: ResolvedModel | None = None
    """The tokenizer, where it is another than the model's own."""
    train: ResolvedData | None = None
    """Training rows."""
    validation: ResolvedData | None = None
    """Validation rows."""
    test: ResolvedData | None = None
    """Test rows."""
    image: Annotated[str, Field(max_length=1024)] | None = None
    """The trainer image with its digest."""


class ParameterGroupStatus(ApiModel):
    """Parameters that are trained alike."""

    name: ShortText
    """Their layers, counted from the head, and whether they decay."""
    parameters: Count
    """How many numbers are trained in it."""
    weight_decay: Measured = None
    """training.optimizer.weightDecay, or 0 for biases and norms."""
    scale: Measured = None
    """Multiple of the learning rate, by model.layerLearningRateDecay."""


class EffectiveStatus(ApiModel):
    """What the defaults became."""

    training: TrainingSpec | None = None
    """spec.training with every default written out."""
    resources: ResourcesSpec | None = None
    """spec.resources with the administrator's defaults."""
    output_uri: Uri | None = None
    """The model's folder."""
    image: Annotated[str, Field(max_length=512)] | None = None
    """The trainer image."""
    labels: Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=1000)] | None = None
    """Labels in the order of their ids; the first 50 where there are more."""
    device: ShortText | None = None
    """What computed: cuda or cpu; "cpu (simulated GPU)" on a cluster that only pretends to have GPUs."""
    precision: ShortText | None = None
    """What precision Auto became."""
    micro_batch_size: Count | None = None
    """Examples per forward pass."""
    total_steps: Count | None = None
    """Optimizer steps planned."""
    parameter_groups: Annotated[list[ParameterGroupStatus], Field(max_length=40)] | None = None
    """What of the model decays, and how fast it learns; the first 40 groups where there are more."""
    processes: Count | None = None
    """Processes that train together, one a GPU; training.sharding says how they share the model."""


class ModelStatus(ApiModel):
    """The recorded model."""

    uri: Uri
    """The model's folder."""
    digest: Digest | None = None
    """sha256 of the folder's SHA256SUMS, which lists every file. Absent for a script of one's own."""
    format: ShortText
    """How the folder is loaded: safetensors by transformers; peft, an adapter, by peft on the base model; custom-head by the folder's custom_head.py; ensemble by its ensemble.py; Unverified for a script of one's own."""
    size_bytes: Count | None = None
    """Size of all files."""
    files: Count | None = None
    """Number of files."""
    base_model: Uri | None = None
    """The checkpoint that training started from."""
    metrics: Metrics = {}
    """Metrics of this model: eval_ on the validation rows, test_ on the test rows."""
    trained_at: Time | None = None
    """When training ended."""


class FineTuneJobStatus(ApiModel):
    """What the operator says of a job."""

    observed_generation: Annotated[int, Field(ge=-1)] = -1
    """Generation of the spec that this status speaks of; -1 before the operator saw the job."""
    phase: Phase | None = None
    """One word for people: Pending, Running, Suspended, Succeeded or Failed."""
    conditions: Annotated[list[Condition], Field(max_length=16), Unique("type")] = []
    """Conditions; wait for Finished, which is True with reason Succeeded or Failed."""
    attempt: Count | None = None
    """Number of the newest attempt."""
    attempts: Annotated[list[AttemptStatus], Field(max_length=20)] = []
    """The newest attempts."""
    retries: Count | None = None
    """Attempts that counted against spec.retry.limit."""
    retry_time: Time | None = None
    """When the next attempt may begin."""
    active_seconds: Count | None = None
    """Running time over all finished attempts, for activeDeadlineSeconds."""
    start_time: Time | None = None
    """When the first attempt began."""
    completion_time: Time | None = None
    """When the job finished."""
    display: DisplayStatus | None = None
    """Texts for the columns of kubectl get; no logic reads them."""
    progress: ProgressStatus | None = None
    """Where training stands."""
    epochs: Annotated[list[EpochStatus], Field(max_length=50)] = []
    """The newest evaluations."""
    best_checkpoint: CheckpointStatus | None = None
    """The best evaluated step."""
    latest_checkpoint: CheckpointStatus | None = None
    """The newest saved step."""
    early_stopped: EarlyStoppedStatus | None = None
    """Set when training stopped before its planned end."""
    resolved: ResolvedStatus | None = None
    """The inputs as they were found."""
    effective: EffectiveStatus | None = None
    """What the defaults became."""
    model: ModelStatus | None = None
    """The recorded model."""
