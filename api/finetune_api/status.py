"""`status`: the observed state of a job. Written by the operator only; no logic reads `phase` or `display`."""

import math
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, FiniteFloat, PlainSerializer

from finetune_api.base import ApiModel, Message, ShortText, Unique
from finetune_api.dataset import RowFormat
from finetune_api.resources import ResourcesSpec
from finetune_api.training import FORGETTING_SETS, TrainingSpec

METRICS_KEPT, METRIC_NAME_LENGTH = 32, 64
EPOCHS_KEPT, ATTEMPTS_KEPT, TRIALS_KEPT, MEMBERS_KEPT = 50, 20, 50, 32
LARGEST_ATTEMPT = 99_999
LARGEST_COUNT = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _finite(value: Any) -> Any:
    """Drop values that JSON cannot represent: NaN and infinity."""
    if isinstance(value, dict):
        return {key: number for key, number in value.items() if _finite(number) is not None}
    return None if isinstance(value, float) and not math.isfinite(value) else value


Time = Annotated[datetime, PlainSerializer(_rfc3339, when_used="json")]
Measured = Annotated[float | None, BeforeValidator(_finite)]
"""A measured number; None if it was NaN or infinite."""
Metrics = Annotated[
    dict[Annotated[str, Field(max_length=METRIC_NAME_LENGTH)], float],
    Field(max_length=METRICS_KEPT),
    BeforeValidator(_finite),
]
Uri = Annotated[str, Field(max_length=512)]
Digest = Annotated[str, Field(max_length=80)]
Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$", max_length=40)]
Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
AttemptNumber = Annotated[int, Field(ge=0, le=LARGEST_ATTEMPT)]


class Phase(StrEnum):
    """One-word summary for humans."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """Condition types. Reconciling and Stalled are present only while True (kstatus), Improved once a baseline was compared; the others are always present."""

    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"
    SUSPENDED = "Suspended"
    FINISHED = "Finished"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    IMPROVED = "Improved"


class Reason(StrEnum):
    """Machine-readable reason of a condition or an attempt."""

    ACCEPTED = "Accepted"
    QUEUED = "Queued"
    STARTING = "Starting"
    PENDING = "Pending"
    UNSCHEDULABLE = "Unschedulable"
    CLAIM_NOT_BOUND = "ClaimNotBound"
    CLAIM_NOT_SHARED = "ClaimNotShared"
    OUTPUT_TAKEN = "OutputTaken"
    MISSING_OBJECT = "MissingObject"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    PREFLIGHT = "Preflight"
    WAITING_TO_RETRY = "WaitingToRetry"
    STOPPING = "Stopping"
    RUNNING = "Running"
    NOT_SUSPENDED = "NotSuspended"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    IMPROVED = "Improved"
    NOT_IMPROVED = "NotImproved"
    WITHIN_UNCERTAINTY = "WithinUncertainty"
    NOT_FINISHED = "NotFinished"
    FAILED = "Failed"
    INVALID_SPEC = "InvalidSpec"
    IMAGE_NOT_ALLOWED = "ImageNotAllowed"
    NOT_ALLOWED = "NotAllowed"
    CHILD_NAME_CONFLICT = "ChildNameConflict"
    CHILD_REFUSED = "ChildRefused"
    TRIALS_FAILED = "TrialsFailed"
    MEMBERS_FAILED = "MembersFailed"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    STARTUP_DEADLINE_EXCEEDED = "StartupDeadlineExceeded"
    CONFIGURATION_ERROR = "ConfigurationError"
    DATA_ERROR = "DataError"
    NOT_FOUND = "NotFound"
    GPUS_NOT_SEEN = "GPUsNotSeen"
    TRAINER_FAULT = "TrainerFault"
    OUT_OF_MEMORY = "OutOfMemory"
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    DIVERGED = "Diverged"
    PEER_LOST = "PeerLost"
    PODS_APART = "PodsApart"
    PRUNED = "Pruned"
    GATE_NOT_PASSED = "GateNotPassed"
    STORAGE_FAILED = "StorageFailed"
    INTERRUPTED = "Interrupted"
    PREEMPTED = "Preempted"
    EVICTED = "Evicted"
    REFUSED_BY_NODE = "RefusedByNode"
    NODE_LOST = "NodeLost"
    POD_LOST = "PodLost"
    KILLED = "Killed"
    CRASHED = "Crashed"
    STALLED = "Stalled"
    GPU_FAULT = "GPUFault"
    SCRIPT_FAILED = "ScriptFailed"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """A condition, as metav1.Condition."""

    type: ConditionType
    """Running, Complete, Failed, Suspended, Finished, Reconciling, Stalled or Improved."""
    status: Annotated[str, Field(pattern="^(True|False|Unknown)$", max_length=7)]
    """True, False or Unknown."""
    reason: Annotated[str, Field(max_length=64)]
    """Machine-readable reason of the last transition, one CamelCase word. For example OutOfMemory."""
    message: Message
    """Human-readable explanation in one sentence, with the remedy."""
    last_transition_time: Time
    """Time of the last change of status."""
    observed_generation: Count
    """metadata.generation of the spec that the condition was computed from."""


class AttemptStatus(ApiModel):
    """One attempt to train, run as one batch Job."""

    number: AttemptNumber
    """Number of the attempt, counted from 1."""
    reason: ShortText | None = None
    """Machine-readable reason of its end, for example Preempted. Absent while the attempt runs."""
    message: Message | None = None
    """Human-readable explanation of its end."""
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    """Exit code of the training container."""
    counted: bool | None = None
    """Whether the attempt counts towards spec.retry.limit."""
    node: ShortText | None = None
    """Name of the node that it ran on."""
    start_time: Time | None = None
    """Time at which the operator started the attempt."""
    running_time: Time | None = None
    """Time at which its container started."""
    end_time: Time | None = None
    """Time at which its last pod ended."""
    from_step: Count | None = None
    """Optimizer step of the checkpoint that it resumed from. 0 if it started from the beginning. Absent until it reports, also after an eviction."""
    to_step: Count | None = None
    """Last optimizer step that it reported, or that the next attempt found it had reached."""
    evictions: Count | None = None
    """Number of times that its queue took its place after it had started. It saves a checkpoint and resumes in the same attempt when it is admitted again."""
    evicted_time: Time | None = None
    """Time at which its pods had ended after the last of these."""
    lost_steps: Count | None = None
    """Steps that it is known to have taken after the checkpoint from which training went on: in the next attempt or, after an eviction, in this one. Until training goes on, those after its last checkpoint. Absent for your own script."""
    gpu_seconds: Count | None = None
    """Seconds for which its containers ran, times their GPUs, or times 1 on a CPU; of an evicted attempt, since it was last admitted. That of a running attempt is as of the last progress report."""
    micro_batch_size: Count | None = None
    """Micro-batch size that the operator set, because an earlier attempt used more memory than its pod may."""


class UsageStatus(ApiModel):
    """What a job has used, over all attempts, as of the last progress report."""

    gpu_seconds: Count | None = None
    """Seconds for which its containers ran, times their GPUs, or times 1 on a CPU."""
    useful_gpu_seconds: Count | None = None
    """The part of gpuSeconds that was spent on training and evaluation that no retry had to repeat. Absent for your own script."""
    queued_seconds: Count | None = None
    """Seconds from the start of an attempt until its container ran, or it ended without: waiting for a queue, a node or an image."""
    goodput: Measured = None
    """usefulGpuSeconds divided by gpuSeconds."""


class ExcludedNode(ApiModel):
    """A node that no further attempt of this job runs on for some time."""

    node: ShortText
    """Name of the node."""
    until: Time
    """Time until which it is excluded."""


class DisplayStatus(ApiModel):
    """Texts for the columns of kubectl get."""

    progress: ShortText | None = None
    """Share of optimizer steps done, for example 34%."""
    epoch: ShortText | None = None
    """Epochs done and planned, for example 1.0/3."""
    loss: ShortText | None = None
    """Training loss."""
    best: ShortText | None = None
    """Best value of the best metric, for example eval_loss 0.410."""
    eta: ShortText | None = None
    """Estimated time left, for example 1h52m."""
    gpus: ShortText | None = None
    """Nodes × GPUs per node, for example 1×4."""
    message: Message | None = None
    """Current state in one sentence."""


class ProgressStatus(ApiModel):
    """Training progress, as reported by the trainer."""

    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Share of optimizer steps done, in percent."""
    step: Count | None = None
    """Optimizer steps done."""
    total_steps: Count | None = None
    """Optimizer steps planned."""
    epoch: Measured = None
    """Epochs done, for example 1.5."""
    loss: Measured = None
    """Training loss."""
    learning_rate: Measured = None
    """Learning rate of the last step."""
    grad_norm: Measured = None
    """Gradient norm of the last step, before clipping."""
    grad_norm_clipped: Measured = None
    """Gradient norm of the last step, after clipping."""
    tokens_per_second: Measured = None
    """Throughput in tokens per second, without padding."""
    data_wait_share: Measured = None
    """Share of the last step's time spent waiting for data, from 0 to 1."""
    padding_ratio: Measured = None
    """Share of padding among all tokens computed so far, from 0 to 1."""
    memory_bytes: Count | None = None
    """Peak memory in bytes so far: allocated by torch on the GPU, or resident memory of the process when training on the CPU."""
    eta_seconds: Count | None = None
    """Estimated time left, in seconds."""
    metrics: Metrics | None = None
    """Other numbers that your own script reports."""
    last_update_time: Time | None = None
    """Time of the trainer's last progress report."""
    host_memory_bytes: Count | None = None
    """Peak memory of the pod in bytes so far, without that of its GPUs."""
    train_seconds: Measured = None
    """Seconds of training and evaluation that led to this step, over all attempts. Repeated steps count once."""


class Weights(StrEnum):
    """Which weights of a run with training.ema."""

    TRAINED = "Trained"
    EMA = "EMA"


class EpochStatus(ApiModel):
    """One evaluation during training."""

    epoch: float
    """Epochs done, for example 1.5."""
    step: Count
    """Optimizer steps done."""
    train_loss: Measured = None
    """Mean training loss since the previous evaluation."""
    eval_loss: Measured = None
    """Loss on the validation rows."""
    metrics: Metrics = {}
    """Metrics on the validation rows. With training.ema also the loss and bestMetric of both weights, with the prefixes trained_ and ema_."""
    weights: Weights | None = None
    """With training.ema, the weights that evalLoss and metrics belong to, the better ones by bestMetric: Trained, or EMA for their moving average."""
    seconds: Measured = None
    """Seconds since the previous evaluation."""


class CheckpointStatus(ApiModel):
    """A checkpoint."""

    step: Count
    """Optimizer steps done."""
    metric: ShortText | None = None
    """The metric that decides which checkpoint is the best."""
    value: Measured = None
    """Value of the metric at this checkpoint."""
    weights: Weights | None = None
    """With training.ema, the weights that have this value: Trained, or EMA for their moving average."""


class EarlyStoppedStatus(ApiModel):
    """Early stopping: training stopped before its planned end."""

    step: Count
    """Optimizer steps done."""
    metric: ShortText
    """The metric that stopped improving."""
    reason: Message
    """Human-readable explanation in one sentence."""
    saved_seconds: Count | None = None
    """Estimated compute time saved: seconds that the remaining steps would have taken, summed over all GPUs, or on the CPU if no GPU is used."""


class InvalidRows(ApiModel):
    """Rows that were skipped for one reason."""

    reason: Annotated[str, Field(max_length=128)]
    """Reason, as the log gives it for the first of these rows."""
    rows: Count
    """Number of rows."""
    first_row: Count
    """The first of these rows, counted as in error messages."""


class ResolvedData(ApiModel):
    """A data file, or several, as read."""

    uri: Uri | None = None
    """URI that it was read from."""
    revision: Commit | None = None
    """Commit that the hf:// URI resolved to. A retry uses the same commit."""
    digest: Digest | None = None
    """SHA-256 digest of the file; of several files, over the digests of all, in the order in which they are read."""
    rows: Count | None = None
    """Number of rows used."""
    rows_digest: Digest | None = None
    """SHA-256 digest of the rows held out from the training rows: over the digest of the file and the numbers of the rows. Runs with the same one are evaluated on the same rows."""
    invalid_rows: Count | None = None
    """Number of invalid rows, which were skipped."""
    duplicate_rows: Count | None = None
    """Number of duplicate rows, which were dropped."""
    conflicting_duplicates: Count | None = None
    """Number of dropped duplicates whose label differs from that of the row that was kept."""
    invalid_reasons: Annotated[list[InvalidRows], Field(max_length=3)] | None = None
    """Most frequent reasons for skipping rows, at most 3."""
    truncated_rows: Count | None = None
    """Number of texts longer than preprocessing.maxLength, which were truncated."""
    tokens: Count | None = None
    """Number of tokens before truncation."""
    truncated_tokens: Count | None = None
    """Number of tokens that truncation removed."""
    read_as: RowFormat | None = None
    """Of conversations: what a row holds, as dataset.rows says or as it was found."""
    trained_tokens: Count | None = None
    """Of conversations: number of tokens that the loss is computed on."""
    untrained_rows: Count | None = None
    """Number of conversations without a trained token, which were dropped: no turn of the assistant that somebody asks for, train: false, or all of it cut off."""
    cut_turns: Count | None = None
    """Number of trained turns whose end, with the token that stops the model, was cut off."""
    control_tokens: Count | None = None
    """Number of control tokens found in the text of messages. They are tokenized as plain text."""


class ResolvedModel(ApiModel):
    """A model or tokenizer as it was read."""

    uri: Uri | None = None
    """URI that it was read from."""
    revision: Commit | None = None
    """Commit that the hf:// URI resolved to. A retry uses the same commit."""
    digest: Digest | None = None
    """SHA-256 digest over the digests of config.json and of each *.safetensors file. For a tokenizer, over the digests of its files. For an adapter, over its files and the digest of its base model."""
    merged_into: Uri | None = None
    """Base model that uri, an adapter, was merged into before training."""


class ResolvedStatus(ApiModel):
    """The inputs as they were read: revisions, digests and row counts."""

    model: ResolvedModel | None = None
    """The base model."""
    tokenizer: ResolvedModel | None = None
    """The tokenizer, if it is not the model's own."""
    train: ResolvedData | None = None
    """Training rows."""
    validation: ResolvedData | None = None
    """Validation rows."""
    test: ResolvedData | None = None
    """Test rows."""
    image: Annotated[str, Field(max_length=1024)] | None = None
    """The trainer image with its digest."""

    def without_invalid_reasons(self) -> "ResolvedStatus":
        """A shorter copy, for a report that has to fit into a termination message."""
        parts = {name: getattr(self, name) for name in ("train", "validation", "test")}
        shorter = {n: p.model_copy(update={"invalid_reasons": None}) for n, p in parts.items() if p}
        return self.model_copy(update=shorter)


class ParameterGroupStatus(ApiModel):
    """Parameters trained with the same learning rate and weight decay."""

    name: ShortText
    """Name of the group: its layers, counted from the head, and whether weight decay applies."""
    parameters: Count
    """Number of trainable parameters."""
    weight_decay: Measured = None
    """Weight decay: training.optimizer.weightDecay, or 0 for biases and normalisation weights."""
    scale: Measured = None
    """Multiplier of the learning rate, from model.layerLearningRateDecay."""


class WeightsStatus(ApiModel):
    """A part of the model's weights, by number format."""

    format: ShortText
    """Number format in memory: Float32, BFloat16, Float16 or NF4."""
    trained: bool
    """Whether they are trained."""
    parameters: Count
    """Number of weights."""
    bytes_per_parameter: Annotated[float, Field(ge=0)]
    """Bytes in memory for each of them, with the scales of NF4."""


class EffectiveStatus(ApiModel):
    """The effective configuration: the spec with every default resolved."""

    training: TrainingSpec | None = None
    """spec.training with every default filled in."""
    resources: ResourcesSpec | None = None
    """spec.resources with the administrator's defaults applied."""
    output_uri: Uri | None = None
    """URI of the output folder."""
    image: Annotated[str, Field(max_length=512)] | None = None
    """The trainer image that is used."""
    labels: Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=1000)] | None = None
    """Labels in the order of their ids. Only the first 50 if there are more."""
    head: Annotated[str, Field(max_length=1024)] | None = None
    """Head that training started with, and why: that of the base model with its rows matched by label, or a new one."""
    device: ShortText | None = None
    """Device used for training: cuda or cpu, or "cpu (simulated GPU)" on a cluster that only simulates GPUs."""
    precision: ShortText | None = None
    """Precision used, after resolving Auto."""
    checkpoint_weights: ShortText | None = None
    """Number format of the base model's matrices in its files: Float32, BFloat16 or Float16."""
    weights: Annotated[list[WeightsStatus], Field(max_length=8)] | None = None
    """Number formats of the weights in memory while training, with the size of each part."""
    micro_batch_size: Count | None = None
    """Examples per forward pass on each device."""
    max_length: Count | None = None
    """Tokens after which texts are truncated: dataset.preprocessing.maxLength, or less if the model takes no more."""
    total_steps: Count | None = None
    """Optimizer steps planned."""
    parameter_groups: Annotated[list[ParameterGroupStatus], Field(max_length=40)] | None = None
    """Parameter groups with their weight decay and learning-rate multiplier. Only the first 40 if there are more."""
    processes: Count | None = None
    """World size: number of training processes, one per GPU. training.sharding says how they share the model."""


class Published(StrEnum):
    """Which model an ensemble published."""

    COMBINATION = "Combination"
    BEST_MEMBER = "BestMember"


class CombinationStatus(ApiModel):
    """A combination of models beside its members, all evaluated on the same rows."""

    combine: ShortText
    """How the members were combined, for example AverageProbabilities."""
    metric: ShortText
    """Metric that they are compared by. The prefix eval_ means validation rows, test_ means test rows."""
    members: Count
    """Number of members evaluated."""
    used: Count
    """Number of members in the combination. GreedySoup leaves out those that make it worse."""
    mean_member: Measured = None
    """Mean value of the members."""
    best_member: Measured = None
    """Value of the best member. It is selected on these rows, so it is optimistic."""
    combined: Measured = None
    """Value of the combination."""
    gain: Measured = None
    """How much better the combination is than its best member; negative if it is worse."""
    gain_interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """95 % confidence interval of the gain: bootstrap over the rows."""
    published: Published
    """The model that was published: the combination, or the best member, because the combination is not better."""


class BaselineKind(StrEnum):
    """What a trained model is compared with."""

    UNTRAINED_MODEL = "UntrainedModel"
    CONSTANT_PREDICTION = "ConstantPrediction"


class BaselineStatus(ApiModel):
    """What could be had without training, on the same validation rows."""

    kind: BaselineKind
    """UntrainedModel: the model as it was before training. ConstantPrediction: the label frequencies or the mean of the training rows, because the model's head is new."""
    metrics: Metrics
    """Metrics on the validation rows, with the prefix eval_."""


class ImprovementStatus(ApiModel):
    """What training gained over the baseline, on the same validation rows."""

    metric: ShortText
    """Metric that is compared: that of spec.gate, or training.evaluation.bestMetric."""
    from_: Annotated[FiniteFloat, Field(alias="from")]
    """Value of the baseline."""
    to: FiniteFloat
    """Value of the trained model, with the weights that are published."""
    delta: FiniteFloat
    """to - from. For a metric where lower is better, a negative value is an improvement."""
    ci95: Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)] | None = None
    """95 % confidence interval of delta: paired bootstrap over the rows. Absent if too few resamples define the metric."""


class ForgettingStatus(ApiModel):
    """Other rows, evaluated before and after training."""

    uri: Uri | None = None
    """URI that the rows were read from."""
    rows: Count
    """Number of rows."""
    metric: ShortText
    """Metric that is compared: that of spec.gate, or training.evaluation.bestMetric."""
    from_: Annotated[Measured, Field(alias="from")] = None
    """Value before training. Absent if it is undefined."""
    to: Measured = None
    """Value of the trained model, with the weights that are published. Absent if it is undefined."""
    drop: Measured = None
    """How much worse the value became; negative if it became better."""


class ModelStatus(ApiModel):
    """The published model."""

    uri: Uri
    """URI of the model's folder."""
    digest: Digest | None = None
    """SHA-256 digest of the folder's SHA256SUMS file, which lists every file. Absent for your own script."""
    format: ShortText
    """How to load the folder. safetensors: with transformers. peft: an adapter, with peft on the base model. custom-head: with the folder's custom_head.py. ensemble: with its ensemble.py. Unverified: the output of your own script."""
    dtype: ShortText | None = None
    """Number format of the weights, for example float32 or bfloat16."""
    size_bytes: Count | None = None
    """Total size of all files, in bytes."""
    files: Count | None = None
    """Number of files."""
    base_model: Uri | None = None
    """URI of the pretrained model that training started from."""
    metrics: Metrics = {}
    """Metrics of this model. The prefix eval_ means validation rows, test_ means test rows."""
    weights: Weights | None = None
    """With training.ema, the weights that were published: Trained, or EMA for their moving average."""
    combination: CombinationStatus | None = None
    """For a model of an ensemble: the combination beside its members."""
    trained_at: Time | None = None
    """Time at which training ended."""


class TrialState(StrEnum):
    """State of a trial, or of a member of an ensemble."""

    PLANNED = "Planned"
    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    PRUNED = "Pruned"
    FAILED = "Failed"
    STOPPED = "Stopped"


ENDED = frozenset({TrialState.SUCCEEDED, TrialState.PRUNED, TrialState.FAILED, TrialState.STOPPED})


class TrialStatus(ApiModel):
    """A trial of a search."""

    number: Count
    """Number of the trial, counted from 1."""
    name: ShortText
    """Name of its FineTuneJob."""
    state: TrialState
    """Pending, Running, Suspended, Succeeded, Pruned (ended early, because others are better), Failed, or Stopped (the search ended before it)."""
    parameters: Annotated[dict[str, ShortText], Field(max_length=16)] = {}
    """Values of the searched fields, by path, as JSON."""
    value: Measured = None
    """Value of training.evaluation.bestMetric: that of the published model, or the best one so far."""


class ConfirmedStatus(ApiModel):
    """A trial that was repeated with other seeds."""

    number: Count
    """Number of the trial."""
    runs: Count
    """Number of repetitions that succeeded."""
    mean: Measured = None
    """Mean value of the repetitions, without the trial itself."""
    spread: Measured = None
    """Sample standard deviation of the repetitions, if there are at least two."""


class RandomSearchStatus(ApiModel):
    """What random search would have reached with the same training time. A bootstrap over the random trials that TPE starts with (Dodge et al. 2019), so it is never better than the best of these."""

    median: FiniteFloat
    """Median of the best values of the metric."""
    low: FiniteFloat
    """Lower end of the 90 % interval."""
    high: FiniteFloat
    """Upper end of the 90 % interval."""


class TrialsStatus(ApiModel):
    """The trials of a search."""

    metric: ShortText
    """Metric that the trials are compared by."""
    planned: Count
    """Number of trials to run."""
    end: ShortText | None = None
    """Why the search ended."""
    total: Count
    """Number of trials created."""
    running: Count
    """Number of trials that have not ended."""
    succeeded: Count
    """Number of trials that trained to their end."""
    pruned: Count
    """Number of trials that were ended early, because others are better."""
    failed: Count
    """Number of trials that failed."""
    stopped: Count
    """Number of trials that the end of the search stopped."""
    deleted: Count
    """Number of trials that somebody deleted."""
    repeats: Count
    """Number of repetitions created (spec.search.confirm)."""
    device_seconds: Count
    """Seconds of training of all ended attempts of trials and repetitions, times the GPUs of each, or times 1 on a CPU."""
    saved_seconds: Count
    """Device seconds that pruning saved: those that the pruned trials would have needed to train as long as the successful ones did on average."""
    best: TrialStatus | None = None
    """The best trial so far; with spec.search.confirm at last the one with the best mean."""
    confirmed: Annotated[list[ConfirmedStatus], Field(max_length=9)] = []
    """The trials that were repeated, the best mean first."""
    importances: Annotated[dict[ShortText, float], Field(max_length=16), BeforeValidator(_finite)] | None = (
        None
    )
    """Share of each searched field in what sets the best tenth of the trials apart (PED-ANOVA), when the search has ended with at least 10 successful trials."""
    random_search: RandomSearchStatus | None = None
    """What random search would have reached with the same training time, when the search has been summarized. Absent unless the algorithm is TPE and its first 10 trials, which are random, all succeeded."""
    latest: Annotated[list[TrialStatus], Field(max_length=TRIALS_KEPT)] = []
    """The latest trials, at most 50."""


class MemberStatus(ApiModel):
    """A member of an ensemble."""

    number: Count
    """Number of the member, or of the trial that it is."""
    name: ShortText
    """Name of its FineTuneJob."""
    state: TrialState
    """Planned (not created yet), Pending, Running, Suspended, Succeeded, Failed, or Stopped (the ensemble ended before it)."""
    value: Measured = None
    """Value of training.evaluation.bestMetric: that of the published model, or the best one so far."""
    uri: Uri | None = None
    """URI of its model."""
    digest: Digest | None = None
    """Digest of its model."""


class PreflightMemory(ApiModel):
    """Estimated peak memory of each training process: of each GPU, or of the process on a CPU. In bytes."""

    total: Count
    """Sum of the parts. Fragmentation, temporary buffers of kernels and the CUDA context, about 1 GiB, are not included."""
    weights: Count
    """Weights, in the format that they are trained in."""
    gradients: Count
    """Gradients of the trained weights."""
    optimizer: Count
    """State of the optimizer: two numbers per trained weight for AdamW."""
    average: Count | None = None
    """Moving average of the trained weights, with training.ema."""
    activations: Count | None = None
    """Activations kept for the backward pass of one micro-batch of the longest rows. Absent where the model's architecture does not allow an estimate without its weights."""
    micro_batch_size: Count | None = None
    """Rows per micro-batch that activations are estimated for."""
    longest: Count | None = None
    """Tokens of each of these rows: those of the longest one."""


class PreflightTime(ApiModel):
    """Estimated time of training. Evaluations, checkpoints, reading and interruptions come on top."""

    seconds: Count
    """Seconds of all steps."""
    step_seconds: Measured = None
    """Seconds of one optimizer step."""
    basis: ShortText
    """The speed of computation that the estimate rests on, and whether it was measured or assumed."""


class PreflightDisk(ApiModel):
    """Estimated need of the output claim, in bytes."""

    needed: Count
    """Checkpoints that are kept at the same time, the model, and the tokens."""
    checkpoint: Count
    """One checkpoint: trained weights and state of the optimizer."""
    model: Count
    """The published weights."""
    tokens: Count
    """The tokens of all rows."""
    free: Count | None = None
    """Free space found on the claim. Absent if the claim had no volume yet."""


class PreflightFindings(ApiModel):
    """What preflight found."""

    train_rows: Count | None = None
    """Training rows used."""
    validation_rows: Count | None = None
    """Validation rows used."""
    test_rows: Count | None = None
    """Test rows used."""
    invalid_rows: Count | None = None
    """Invalid rows, which are skipped."""
    duplicate_rows: Count | None = None
    """Duplicate rows, which are dropped."""
    leaked_rows: Count | None = None
    """Validation and test rows with a text that is also in the training rows."""
    labels: Count | None = None
    """Number of labels."""
    tokens: Count | None = None
    """Tokens of the training rows, before truncation."""
    truncated_share: Measured = None
    """Share of these tokens that truncation removes, from 0 to 1."""
    total_steps: Count | None = None
    """Optimizer steps planned."""
    parameters: Count | None = None
    """Parameters of the model."""
    trained_parameters: Count | None = None
    """Parameters that are trained."""
    memory: PreflightMemory | None = None
    """Estimated peak memory of each training process."""
    disk: PreflightDisk | None = None
    """Estimated need of the output claim."""
    time: PreflightTime | None = None
    """Estimated time of training."""
    warnings: Annotated[list[Annotated[str, Field(max_length=320)]], Field(max_length=4)] = []
    """What looks wrong but does not prevent training. Only the first ones if there are many."""


class PreflightStatus(PreflightFindings):
    """The check of data, model and output on a CPU before the first attempt, and what it found."""

    number: Count
    """Number of the latest try, counted from 1. Its pod is that of the Job NAME-UID-pNUMBER."""
    reason: ShortText | None = None
    """Machine-readable reason of its end: Succeeded, Skipped if spec.image is a trainer without this check, or why it failed, for example DataError. Absent while it runs."""
    message: Message | None = None
    """Human-readable explanation of its end."""
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    """Exit code of the container."""
    retries: Count | None = None
    """Number of retries after failures that may be temporary. They do not count towards spec.retry.limit."""
    node: ShortText | None = None
    """Name of the node that it ran on."""
    start_time: Time | None = None
    """Time at which the operator started this try."""
    running_time: Time | None = None
    """Time at which its container started."""
    end_time: Time | None = None
    """Time at which its pod ended."""


class FineTuneJobStatus(ApiModel):
    """Observed state of a job. Written by the operator."""

    observed_generation: Annotated[int, Field(ge=-1)] = -1
    """metadata.generation of the spec that this status was computed from. -1 until the operator has seen the job."""
    phase: Phase | None = None
    """One-word summary for humans: Pending, Running, Suspended, Succeeded or Failed."""
    conditions: Annotated[list[Condition], Field(max_length=16), Unique("type")] = []
    """Conditions of the job. To wait for its end, use Finished: it becomes True with reason Succeeded or Failed."""
    attempt: AttemptNumber | None = None
    """Number of the latest attempt."""
    attempts: Annotated[list[AttemptStatus], Field(max_length=ATTEMPTS_KEPT)] = []
    """The latest attempts, at most 20."""
    retries: Count | None = None
    """Number of failed attempts that count towards spec.retry.limit."""
    retry_time: Time | None = None
    """Earliest time of the next retry."""
    active_seconds: Annotated[int, Field(ge=0, le=10_000_000_000)] | None = None
    """Running time of all finished attempts in seconds, compared with spec.activeDeadlineSeconds."""
    usage: UsageStatus | None = None
    """What the job has used: GPU time, the useful part of it, time in queues."""
    excluded_nodes: Annotated[list[ExcludedNode], Field(max_length=8)] = []
    """Nodes on which two of the last three failures happened, at most 8."""
    start_time: Time | None = None
    """Time at which the first attempt started."""
    completion_time: Time | None = None
    """Time at which the job finished."""
    display: DisplayStatus | None = None
    """Texts for the columns of kubectl get. For display only."""
    preflight: PreflightStatus | None = None
    """The check of data, model and output on a CPU before the first attempt, and what it found."""
    progress: ProgressStatus | None = None
    """Training progress of the current or last attempt."""
    epochs: Annotated[list[EpochStatus], Field(max_length=EPOCHS_KEPT)] = []
    """The latest evaluations, at most 50."""
    best_checkpoint: CheckpointStatus | None = None
    """The step with the best evaluation."""
    latest_checkpoint: CheckpointStatus | None = None
    """The latest step with a saved checkpoint."""
    early_stopped: EarlyStoppedStatus | None = None
    """Set if early stopping ended training before its planned end."""
    trials: TrialsStatus | None = None
    """The trials of a search."""
    members: Annotated[list[MemberStatus], Field(max_length=MEMBERS_KEPT)] = []
    """The members of an ensemble."""
    resolved: ResolvedStatus | None = None
    """The inputs as they were read: revisions, digests and row counts."""
    effective: EffectiveStatus | None = None
    """The effective configuration: the spec with every default resolved."""
    baseline: BaselineStatus | None = None
    """What could be had without training, if training.evaluation.baseline or spec.gate.betterThanBaselineBy asks for it."""
    improvement: ImprovementStatus | None = None
    """What training gained over the baseline."""
    forgetting: Annotated[list[ForgettingStatus], Field(max_length=FORGETTING_SETS)] = []
    """Other rows, evaluated before and after training: those of training.evaluation.forgetting."""
    model: ModelStatus | None = None
    """The published model, once training has succeeded."""
