"""`spec.training`: optimizer, schedule, batch size, and when to evaluate, save and stop."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field

from finetune_api.base import ApiModel, OneOf, Rule
from finetune_api.metrics import DEFAULTS, SHARES, MetricName, plain, written
from finetune_api.uris import LocalDataUri

BATCH_SIZE = 32
FORGETTING_SETS = 4
LARGEST_TENSOR_GROUP = 64
PositiveInt = Annotated[int, Field(ge=1, le=10_000_000)]
MICRO_BATCH_TOKENS = 2048
"""With short texts a micro-batch has 32 rows, which trains a seventh faster than 8 rows and takes no more memory than 8 long ones."""


class OptimizerName(StrEnum):
    """Supported optimizers."""

    ADAMW = "AdamW"
    SGD = "SGD"


class ScheduleName(StrEnum):
    """Shape of the learning rate after the warm-up."""

    CONSTANT = "Constant"
    LINEAR = "Linear"
    COSINE = "Cosine"
    POLYNOMIAL = "Polynomial"
    INVERSE_SQRT = "InverseSqrt"
    WARMUP_STABLE_DECAY = "WarmupStableDecay"
    ONE_CYCLE = "OneCycle"
    PLATEAU = "Plateau"


class Precision(StrEnum):
    """Number format of the forward and backward pass. Weights stay in float32."""

    AUTO = "Auto"
    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"


class Resume(StrEnum):
    """Whether a new attempt resumes from a checkpoint."""

    AUTO = "Auto"
    NEVER = "Never"


class OptimizerSpec(ApiModel):
    """The optimizer. Weight decay does not apply to biases and normalisation weights."""

    name: OptimizerName = OptimizerName.ADAMW
    """AdamW (Loshchilov & Hutter 2019) or SGD with optional momentum."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-5
    """Peak learning rate, reached at the end of the warm-up. For example 5e-5."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Weight decay coefficient. AdamW decays weights directly (decoupled); SGD adds the decay to the gradient (L2)."""
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [
        0.9,
        0.999,
    ]
    """AdamW only: decay rates of the running averages of the gradient and of its square."""
    epsilon: Annotated[float, Field(gt=0, le=0.1)] = 1e-8
    """AdamW only: added to the denominator for numerical stability."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """SGD only: momentum factor, for example 0.9."""


class WarmupSpec(OneOf):
    """Length of a warm-up or decay phase. Set exactly one of ratio and steps."""

    ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Length as a share of all optimizer steps, for example 0.1."""
    steps: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    """Length in optimizer steps, for example 100."""


class PlateauSpec(ApiModel):
    """Settings of the Plateau schedule, which reduces the learning rate when the metric stops improving."""

    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The learning rate is multiplied by this factor at each reduction."""
    patience: Annotated[int, Field(ge=0, le=1000)] = 1
    """Number of evaluations without improvement before the learning rate is reduced."""
    min_delta: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Minimum change of training.evaluation.bestMetric that counts as an improvement."""


class ScheduleSpec(ApiModel):
    """The learning-rate schedule."""

    rules = (
        Rule(
            "!has(self.power) || (has(self.name) && self.name == 'Polynomial')",
            "power belongs to the schedule Polynomial; remove it, or set name: Polynomial",
            lambda s: s.power is None or s.name is ScheduleName.POLYNOMIAL,
            ".power",
        ),
        Rule(
            "!has(self.minRatio) || !has(self.name)"
            " || self.name in ['Linear', 'Cosine', 'Polynomial', 'WarmupStableDecay']",
            "minRatio applies to Linear, Cosine, Polynomial and WarmupStableDecay only; remove it, or change name",
            lambda s: (
                s.min_ratio is None
                or s.name
                in (
                    ScheduleName.LINEAR,
                    ScheduleName.COSINE,
                    ScheduleName.POLYNOMIAL,
                    ScheduleName.WARMUP_STABLE_DECAY,
                )
            ),
            ".minRatio",
        ),
        Rule(
            "!has(self.decay) || (has(self.name) && self.name == 'WarmupStableDecay')",
            "decay belongs to the schedule WarmupStableDecay; remove it, or set name: WarmupStableDecay",
            lambda s: s.decay is None or s.name is ScheduleName.WARMUP_STABLE_DECAY,
            ".decay",
        ),
        Rule(
            "!has(self.plateau) || (has(self.name) && self.name == 'Plateau')",
            "plateau belongs to the schedule Plateau; remove it, or set name: Plateau",
            lambda s: s.plateau is None or s.name is ScheduleName.PLATEAU,
            ".plateau",
        ),
    )
    name: ScheduleName = ScheduleName.LINEAR
    """Shape of the learning rate after the warm-up. Constant keeps the peak. Linear, Cosine (half a period) and Polynomial decay to zero or to minRatio. InverseSqrt decays with the inverse square root of the step. WarmupStableDecay stays constant, then decays linearly. OneCycle rises and falls along cosines (Smith & Topin 2019). Plateau reduces the rate when training.evaluation.bestMetric stops improving."""
    warmup: WarmupSpec | None = None
    """Warm-up: how long the learning rate rises to its peak. Default: {ratio: 0.1}, or {ratio: 0.3} for OneCycle. Set {steps: 0} for no warm-up."""
    power: Annotated[float, Field(gt=0, le=16)] | None = None
    """Polynomial only: exponent of the decay. Default: 2."""
    min_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Final learning rate as a share of the peak, for example 0.1. Applies to Linear, Cosine, Polynomial and WarmupStableDecay. Default: 0."""
    decay: WarmupSpec | None = None
    """WarmupStableDecay only: length of the final decay. Default: {ratio: 0.2}."""
    plateau: PlateauSpec | None = None
    """Plateau only: when and by how much the learning rate is reduced. Default: {factor: 0.5, patience: 1}."""

    def resolved(self) -> Self:
        """A copy with every default of this shape filled in."""
        defaults: dict[str, Any] = {
            "warmup": WarmupSpec(ratio=0.3 if self.name is ScheduleName.ONE_CYCLE else 0.1)
        }
        if self.name is ScheduleName.POLYNOMIAL:
            defaults["power"] = 2.0
        if self.name is ScheduleName.WARMUP_STABLE_DECAY:
            defaults["decay"] = WarmupSpec(ratio=0.2)
        if self.name is ScheduleName.PLATEAU:
            defaults["plateau"] = PlateauSpec()
        absent = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return self.model_copy(update=absent)


class GradientClippingSpec(OneOf):
    """Gradient clipping. Set exactly one of maxNorm and maxValue."""

    max_norm: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """Maximum L2 norm of the gradient over all parameters (Pascanu et al. 2013), for example 1.0. 0 turns clipping off."""
    max_value: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Maximum absolute value of each gradient element, for example 0.5."""


class EmaSpec(ApiModel):
    """An exponential moving average (EMA) of the trained weights, evaluated beside them. The better ones are published."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Share of the average that each update keeps, for example 0.999; the rest comes from the trained weights. A larger value averages over more steps. Update number n keeps at most (n - 1) / (n + 8), so that early weights fade: the average covers about the last tenth of a short run, and decay 0.999 takes effect after about 9,000 updates."""
    every: PositiveInt = 1
    """Optimizer steps between updates of the average. Must not exceed the number of steps of the run."""


class EvaluationInterval(OneOf):
    """How often to evaluate. Set exactly one of epochs and steps."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Every N epochs, that is, passes over the training data."""
    steps: PositiveInt | None = None
    """Every N optimizer steps."""


class ForgettingSpec(ApiModel):
    """Rows of another kind that the model should still answer as well as before training."""

    uri: LocalDataUri
    """URI of a file with the columns of the training rows, for example pvc://data/general.jsonl. Several files or a folder: as for dataset.train. Its labels must be those of the training rows."""
    max_drop: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """How much worse training.evaluation.bestMetric (or spec.gate.metric) may become on these rows, in units of the metric. If it becomes worse, the job fails with reason GateNotPassed and publishes nothing. For example 0.02. Default: it is only reported, in status.forgetting."""


class EvaluationSpec(ApiModel):
    """When to evaluate on the validation rows, and which metrics to compute."""

    every: EvaluationInterval | None = None
    """How often to evaluate. The last step is always evaluated. Default: {epochs: 1}."""
    metrics: Annotated[list[MetricName], Field(max_length=16)] | None = None
    """Metrics to report in addition to the loss. Default: accuracy and f1 for classification, accuracy and f1_macro for token classification, rmse and pearson for regression, perplexity for causalLM, accuracy and rewards_margin for preference."""
    baseline: Annotated[bool, Field(exclude_if=lambda wanted: not wanted)] = False
    """true also evaluates before training, on the same validation rows: status.baseline, and status.improvement with a 95 % interval. Costs one evaluation at the start and one at the end. The baseline is the untrained model; if its head is new, it is the best constant prediction: the label frequencies or the mean of the training rows."""
    forgetting: Annotated[
        list[ForgettingSpec], Field(max_length=FORGETTING_SETS, exclude_if=lambda sets: not sets)
    ] = []
    """Other rows that are evaluated before and after training, to see what the model has forgotten. The model must be able to do the task before training: a new head is refused."""
    samples: Annotated[int, Field(ge=0, le=20, exclude_if=lambda samples: samples == 0)] = 0
    """Number of validation rows whose beginning the model continues before and after training, for the model card. Only for objective.causalLM."""
    best_metric: MetricName = "eval_loss"
    """Metric that decides which checkpoint is the best; early stopping and the Plateau schedule use it too. For example eval_loss or accuracy. The best weights are published only with training.earlyStopping; without it, the last ones are."""


class EarlyStoppingSpec(ApiModel):
    """Early stopping: end training when the metric stops improving."""

    metric: MetricName | None = None
    """Metric that must improve for training to continue, for example eval_loss. Default: training.evaluation.bestMetric, which alone decides which weights are the best."""
    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Number of evaluations without improvement before training stops."""
    min_delta: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Minimum change of the metric that counts as an improvement, for example 0.001."""
    restore_best: bool = True
    """Publish the weights of the best evaluation, chosen by training.evaluation.bestMetric, instead of the last ones."""


class CheckpointInterval(OneOf):
    """How often to save a checkpoint. Set exactly one of epochs, steps and minutes."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Every N epochs, that is, passes over the training data."""
    steps: PositiveInt | None = None
    """Every N optimizer steps."""
    minutes: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Every N minutes."""


class CheckpointSpec(ApiModel):
    """Checkpoints of the training state, from which a retry resumes."""

    every: CheckpointInterval | None = None
    """How often to save a checkpoint. Default: {minutes: 10}."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """Number of newest checkpoints to keep. The best checkpoint is kept in addition."""
    resume: Resume = Resume.AUTO
    """Auto resumes from the newest valid checkpoint of this job. Never starts each attempt from the beginning."""
    grace_period_seconds: Annotated[int, Field(ge=10, le=3600)] = 120
    """Time in seconds that a pod may take to save a checkpoint when it is stopped or evicted."""


class NonFiniteAction(StrEnum):
    """What happens when the loss or gradient is NaN or infinite."""

    FAIL = "Fail"
    SKIP_STEP = "SkipStep"
    ROLLBACK = "Rollback"


class NonFiniteSpec(ApiModel):
    """What happens when the loss or gradient is NaN or infinite. Such a step never changes the weights."""

    action: NonFiniteAction = NonFiniteAction.FAIL
    """Fail ends the job and names the rows and the layer where the NaN or infinity appeared first. SkipStep skips the optimizer step. Rollback restores the newest checkpoint, or an older one if training fails there again, and continues with a smaller learning rate."""
    learning_rate_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Rollback only: the learning rate is multiplied by this factor after each rollback."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 3
    """SkipStep and Rollback only: maximum number of skipped or rolled-back steps. The next one fails the job."""


class Sharding(StrEnum):
    """How the model's state is distributed over several GPUs."""

    NONE = "None"
    FULL = "Full"


class ProfileSpec(ApiModel):
    """Which optimizer steps to profile."""

    from_step: PositiveInt = 10
    """First optimizer step to record."""
    steps: Annotated[int, Field(ge=1, le=100)] = 3
    """Number of steps to record."""


class DebugSpec(ApiModel):
    """Debugging aids. All are off by default."""

    overfit_one_batch: bool = False
    """Train on the first batch only, as a sanity check: if model, data and loss work, the training loss falls to nearly zero. Do not use the resulting model."""
    statistics_every: PositiveInt | None = None
    """Every N steps, write the mean, standard deviation and maximum of each layer's outputs and gradients to statistics.jsonl in the output folder."""
    profile: ProfileSpec | None = None
    """Profile some steps and write a trace for chrome://tracing or Perfetto to trace.json in the output folder."""
    tensor_board: bool = False
    """Also write the metrics for TensorBoard, to the folder tensorboard in the output folder."""


_BEST = "(has(self.evaluation) && has(self.evaluation.bestMetric) ? self.evaluation.bestMetric : 'eval_loss')"


def _reachable(delta: str, given: str, metric: str, named: Callable[[Any], tuple[float, str] | None]) -> Rule:
    """A `delta` is smaller than all that its metric, from 0 to 1, can change by."""
    return Rule(
        f"!({given}) || self.{delta} < 1.0 || !({metric} in {written(SHARES)})",
        f"{delta} is 1 or more, by which a metric from 0 to 1 never improves; for 1 percentage point write 0.01",
        lambda s: (found := named(s)) is None or found[0] < 1 or plain(found[1]) not in SHARES,
        f".{delta}",
    )


class TrainingSpec(ApiModel):
    """Training settings: optimizer, learning-rate schedule, batch size, evaluation and checkpoints."""

    rules = (
        Rule(
            "!(has(self.epochs) && has(self.maxSteps))",
            "give either epochs or maxSteps, not both",
            lambda s: s.epochs is None or s.max_steps is None,
        ),
        Rule(
            f"!has(self.microBatchSize) || self.microBatchSize <= (has(self.batchSize) ? self.batchSize : {BATCH_SIZE})",
            "microBatchSize must not be larger than batchSize, the number of examples in a whole optimizer step",
            lambda s: s.micro_batch_size is None or s.micro_batch_size <= s.batch_size,
            ".microBatchSize",
        ),
        Rule(
            "!has(self.maxSteps) || !has(self.ema) || !has(self.ema.every) || self.ema.every <= self.maxSteps",
            "ema.every must not be larger than maxSteps, or the average never gets an update; lower ema.every",
            lambda s: s.max_steps is None or s.ema is None or s.ema.every <= s.max_steps,
            ".ema.every",
        ),
        Rule(
            "!has(self.tensorParallel) || self.tensorParallel == 1 || !has(self.debug)"
            " || !has(self.debug.statisticsEvery)",
            "debug.statisticsEvery looks at whole layers, of which each GPU has a part with tensorParallel; remove one of"
            " them",
            lambda s: s.tensor_parallel == 1 or s.debug is None or s.debug.statistics_every is None,
            ".debug.statisticsEvery",
        ),
        _reachable(
            "earlyStopping.minDelta",
            "has(self.earlyStopping) && has(self.earlyStopping.minDelta)",
            f"(has(self.earlyStopping.metric) ? self.earlyStopping.metric : {_BEST})",
            lambda s: (
                s.early_stopping
                and (s.early_stopping.min_delta, s.early_stopping.metric or s.evaluation.best_metric)
            ),
        ),
        _reachable(
            "schedule.plateau.minDelta",
            "has(self.schedule) && has(self.schedule.plateau) && has(self.schedule.plateau.minDelta)",
            _BEST,
            lambda s: s.schedule.plateau and (s.schedule.plateau.min_delta, s.evaluation.best_metric),
        ),
    )
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Number of passes over the training data. Default: 3, unless maxSteps is set."""
    max_steps: PositiveInt | None = None
    """Number of optimizer steps to train, as an alternative to epochs. For example 1000."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = BATCH_SIZE
    """Examples per optimizer step, in total over all gradient accumulation steps and all GPUs. For objective.preference, an example is a pair."""
    micro_batch_size: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Examples per forward pass on each device. Gradient accumulation makes up the rest of batchSize. A smaller value needs less memory. Default: as many as hold 2,048 tokens at dataset.preprocessing.maxLength, but at least 8 and at most batchSize. An example of objective.preference is a pair of sequences: half as many."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer."""
    schedule: ScheduleSpec = ScheduleSpec()
    """The learning-rate schedule, including warm-up."""
    gradient_clipping: GradientClippingSpec | None = None
    """Gradient clipping. Default: {maxNorm: 1.0}."""
    ema: EmaSpec | None = None
    """Weight averaging: keep an exponential moving average (EMA) of the trained weights, evaluate both, and publish the better ones by training.evaluation.bestMetric. Takes memory for one more copy of the trained weights and doubles the time of evaluations. Write {} for the defaults. Default: off."""
    precision: Precision = Precision.AUTO
    """Mixed precision. Auto uses bfloat16 if the hardware supports it, and float32 otherwise."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] = 42
    """Random seed for initialisation, shuffling, data splits and dropout."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """When to evaluate, and which metrics to compute."""
    early_stopping: EarlyStoppingSpec | None = None
    """Early stopping: end training when a metric stops improving. Default: off."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """When to save checkpoints, how many to keep, and whether a retry resumes from them."""
    on_non_finite: NonFiniteSpec = NonFiniteSpec()
    """What happens when the loss or gradient is NaN or infinite."""
    sharding: Sharding = Sharding.NONE
    """How several GPUs hold the model. None keeps a full copy on each GPU (distributed data parallel, DDP). Full shards weights, gradients and optimizer state over the GPUs (fully sharded data parallel, FSDP), for models that do not fit on one GPU."""
    tensor_parallel: Annotated[
        int, Field(ge=1, le=LARGEST_TENSOR_GROUP, exclude_if=lambda size: size == 1)
    ] = 1
    """Number of GPUs that compute each example together, each with a part of every layer (tensor parallelism), for models whose layers do not fit on one GPU. Must divide all GPUs of the job, and the attention heads of the model. Can be combined with sharding: Full. For example 2."""
    activation_checkpointing: bool = False
    """Gradient checkpointing: recompute activations in the backward pass instead of storing them. Saves memory and takes about a third more time."""
    deterministic: bool = False
    """Use only deterministic algorithms, so that runs on the same GPU are reproducible bit for bit. May be slower."""
    debug: DebugSpec | None = None
    """Debugging aids, such as overfitting one batch or profiling."""

    @property
    def divided(self) -> bool:
        """Whether GPUs have different parts of the model."""
        return self.sharding is Sharding.FULL or self.tensor_parallel > 1

    def resolved(self, objective: str, max_length: int = 256) -> Self:
        """A copy with every default filled in, for sequences of `max_length` tokens. Idempotent."""
        sequences = 2 if objective == "preference" else 1
        fitting = max(8, MICRO_BATCH_TOKENS // max_length) // sequences
        epochs = self.epochs or (None if self.max_steps else 3)
        evaluation, stopping = self.evaluation, self.early_stopping
        return self.model_copy(
            update={
                "epochs": epochs,
                "micro_batch_size": self.micro_batch_size or min(fitting, self.batch_size),
                "schedule": self.schedule.resolved(),
                "gradient_clipping": self.gradient_clipping or GradientClippingSpec(max_norm=1.0),
                "evaluation": evaluation.model_copy(
                    update={
                        "every": evaluation.every or EvaluationInterval(epochs=1),
                        "metrics": evaluation.metrics or DEFAULTS[objective],
                    }
                ),
                "early_stopping": stopping
                and stopping.model_copy(update={"metric": stopping.metric or evaluation.best_metric}),
                "checkpoint": self.checkpoint.model_copy(
                    update={"every": self.checkpoint.every or CheckpointInterval(minutes=10)}
                ),
            }
        )
