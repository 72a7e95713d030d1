"""`spec.training`: how the weights are updated, and when to evaluate, save and stop."""

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field

from finetune_api.base import ApiModel, OneOf, Rule
from finetune_api.metrics import DEFAULTS, MetricName

PositiveInt = Annotated[int, Field(ge=1, le=10_000_000)]
MICRO_BATCH_TOKENS = 2048
"""Of short texts this makes micro-batches of 32, which are a seventh faster than those of 8, in the memory of 8 long ones."""


class OptimizerName(StrEnum):
    """Optimizers."""

    ADAMW = "AdamW"
    SGD = "SGD"


class ScheduleName(StrEnum):
    """Shapes of the learning rate over the steps, after the warmup."""

    CONSTANT = "Constant"
    LINEAR = "Linear"
    COSINE = "Cosine"
    POLYNOMIAL = "Polynomial"
    INVERSE_SQRT = "InverseSqrt"
    WARMUP_STABLE_DECAY = "WarmupStableDecay"
    ONE_CYCLE = "OneCycle"
    PLATEAU = "Plateau"


class Precision(StrEnum):
    """Number format of the forward and backward pass; weights stay in float32."""

    AUTO = "Auto"
    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"


class Resume(StrEnum):
    """Whether a new attempt goes on from a checkpoint."""

    AUTO = "Auto"
    NEVER = "Never"


class OptimizerSpec(ApiModel):
    """The optimizer. Biases and normalisation weights get no weight decay."""

    name: OptimizerName = OptimizerName.ADAMW
    """AdamW (Loshchilov & Hutter 2019), or SGD with momentum."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-5
    """Peak learning rate, for example 5e-5."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Weight decay: decoupled for AdamW, added to the gradient for SGD."""
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [
        0.9,
        0.999,
    ]
    """AdamW: decay rates of the running averages of the gradient and of its square."""
    epsilon: Annotated[float, Field(gt=0, le=0.1)] = 1e-8
    """AdamW: added to the denominator for numerical stability."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """SGD: share of the last update that is kept, for example 0.9."""


class WarmupSpec(OneOf):
    """How long the learning rate rises or falls: exactly one of the members."""

    ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of all steps, for example 0.1."""
    steps: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    """Number of steps."""


class PlateauSpec(ApiModel):
    """When and by how much the rate falls because nothing improves."""

    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The rate is multiplied by this."""
    patience: Annotated[int, Field(ge=0, le=1000)] = 1
    """So many evaluations without improvement are borne before the rate falls."""
    min_delta: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """A smaller change of training.evaluation.bestMetric does not count as improvement."""


class ScheduleSpec(ApiModel):
    """The learning rate over the steps."""

    rules = (
        Rule(
            "!has(self.power) || self.name == 'Polynomial'",
            "power belongs to the schedule Polynomial; remove it or set name: Polynomial",
            lambda s: s.power is None or s.name is ScheduleName.POLYNOMIAL,
            ".power",
        ),
        Rule(
            "!has(self.minRatio) || self.name in ['Linear', 'Cosine', 'Polynomial', 'WarmupStableDecay']",
            "minRatio is where Linear, Cosine, Polynomial and WarmupStableDecay end; remove it",
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
            "!has(self.decay) || self.name == 'WarmupStableDecay'",
            "decay belongs to the schedule WarmupStableDecay; remove it or set name: WarmupStableDecay",
            lambda s: s.decay is None or s.name is ScheduleName.WARMUP_STABLE_DECAY,
            ".decay",
        ),
        Rule(
            "!has(self.plateau) || self.name == 'Plateau'",
            "plateau belongs to the schedule Plateau; remove it or set name: Plateau",
            lambda s: s.plateau is None or s.name is ScheduleName.PLATEAU,
            ".plateau",
        ),
    )
    name: ScheduleName = ScheduleName.LINEAR
    """Shape after the warmup: Constant; Linear, Cosine (half a period) or Polynomial (to zero); InverseSqrt (of the step); WarmupStableDecay (constant, then linear to zero); OneCycle (up and down by cosines, Smith & Topin 2019); Plateau (falls when the best metric no longer improves)."""
    warmup: WarmupSpec | None = None
    """How long the rate rises from zero. Default: {ratio: 0.1}, for OneCycle {ratio: 0.3}; {steps: 0} for none."""
    power: Annotated[float, Field(gt=0, le=16)] | None = None
    """Polynomial: exponent of the falling share. Default: 2."""
    min_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the peak rate at which the schedule ends, for example 0.1. Default: 0."""
    decay: WarmupSpec | None = None
    """WarmupStableDecay: how long the rate falls at the end. Default: {ratio: 0.2}."""
    plateau: PlateauSpec | None = None
    """Plateau: when and by how much the rate falls. Default: {factor: 0.5, patience: 1}."""

    def resolved(self) -> Self:
        """The same with every default of this shape written out."""
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
    """Bound on the gradient of a step: exactly one of the members."""

    max_norm: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """Largest L2 norm over all parameters (Pascanu et al. 2013); 0 turns clipping off."""
    max_value: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Largest absolute value of every element."""


class EvaluationInterval(OneOf):
    """How often: exactly one of the members."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Every so many passes over the training data."""
    steps: PositiveInt | None = None
    """Every so many optimizer steps."""


class EvaluationSpec(ApiModel):
    """When and by what the model is judged on the validation rows."""

    every: EvaluationInterval | None = None
    """How often. Default: {epochs: 1}. The last step is always evaluated."""
    metrics: Annotated[list[MetricName], Field(max_length=16)] | None = None
    """What to report beside the loss. Default: accuracy and f1 for classification, accuracy and f1_macro for words, rmse and pearson for regression, perplexity for causalLM."""
    best_metric: MetricName = "eval_loss"
    """What early stopping and the schedule Plateau look at, for example eval_loss or accuracy. The best weights are recorded with earlyStopping only; without it the last ones are."""


class EarlyStoppingSpec(ApiModel):
    """Stops when the metric no longer improves."""

    metric: MetricName | None = None
    """What has to improve for training to go on. Default: training.evaluation.bestMetric, which alone decides which weights are the best."""
    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Evaluations without improvement before training stops."""
    min_delta: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """A smaller change does not count as improvement."""
    restore_best: bool = True
    """Record the weights of the best evaluation, by training.evaluation.bestMetric, instead of the last ones."""


class CheckpointInterval(OneOf):
    """How often: exactly one of the members."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Every so many passes over the training data."""
    steps: PositiveInt | None = None
    """Every so many optimizer steps."""
    minutes: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Every so many minutes."""


class CheckpointSpec(ApiModel):
    """When the state of training is saved, so that a retry loses little."""

    every: CheckpointInterval | None = None
    """How often. Default: {minutes: 10}."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """How many of the newest checkpoints are kept; the best one is kept besides."""
    resume: Resume = Resume.AUTO
    """Auto goes on from the newest valid checkpoint of this job; Never starts every attempt anew."""
    grace_period_seconds: Annotated[int, Field(ge=10, le=3600)] = 120
    """How long a pod that is asked to stop may take to save its state."""


class NonFiniteAction(StrEnum):
    """What is done about a loss or gradient that is not a finite number."""

    FAIL = "Fail"
    SKIP_STEP = "SkipStep"
    ROLLBACK = "Rollback"


class NonFiniteSpec(ApiModel):
    """What is done about a loss or gradient that is not a finite number. The weights never take it up."""

    action: NonFiniteAction = NonFiniteAction.FAIL
    """Fail ends the job with the rows and the layer it came from; SkipStep leaves the step out; Rollback goes back to the newest checkpoint, or an older one if that is no better, and on from there with a smaller rate."""
    learning_rate_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Rollback: the learning rate is multiplied by this."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 3
    """SkipStep and Rollback: so many are borne; one more fails the job."""


class Sharding(StrEnum):
    """How several GPUs share the model's state."""

    NONE = "None"
    FULL = "Full"


class ProfileSpec(ApiModel):
    """Steps to profile."""

    from_step: PositiveInt = 10
    """The first step that is recorded."""
    steps: Annotated[int, Field(ge=1, le=100)] = 3
    """So many steps are recorded."""


class DebugSpec(ApiModel):
    """Looks inside a run; all off unless asked for."""

    overfit_one_batch: bool = False
    """Train on the first batch alone: a model and loss that work reach a loss near zero. No model is worth keeping from it."""
    statistics_every: PositiveInt | None = None
    """Write mean, deviation and largest value of every layer's outputs and gradients after so many steps each, to statistics.jsonl in the output."""
    profile: ProfileSpec | None = None
    """Write a trace of some steps, which chrome://tracing and Perfetto show, to trace.json in the output."""
    tensor_board: bool = False
    """Write the metrics for TensorBoard too, to the folder tensorboard in the output."""


class TrainingSpec(ApiModel):
    """How the weights are updated."""

    rules = (
        Rule(
            "!(has(self.epochs) && has(self.maxSteps))",
            "give either epochs or maxSteps, not both",
            lambda s: s.epochs is None or s.max_steps is None,
        ),
        Rule(
            "!has(self.microBatchSize) || self.microBatchSize <= self.batchSize",
            "microBatchSize must not be larger than batchSize, which counts the examples of a whole optimizer step",
            lambda s: s.micro_batch_size is None or s.micro_batch_size <= s.batch_size,
            ".microBatchSize",
        ),
    )
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Passes over the training data. Default: 3, unless maxSteps is given."""
    max_steps: PositiveInt | None = None
    """Optimizer steps, instead of epochs."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Examples per optimizer step, over all accumulation steps and all devices."""
    micro_batch_size: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Examples per forward pass and device; gradients are accumulated up to batchSize. Default: as many as hold 2,048 tokens at dataset.preprocessing.maxLength, and 8 at least; batchSize at most."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer."""
    schedule: ScheduleSpec = ScheduleSpec()
    """The learning rate over the steps."""
    gradient_clipping: GradientClippingSpec | None = None
    """Bound on the gradient. Default: {maxNorm: 1.0}."""
    precision: Precision = Precision.AUTO
    """Auto uses bfloat16 where the hardware computes in it, else float32."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] = 42
    """Seed of initialisation, shuffling, splits and dropout."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """When and by what the model is judged."""
    early_stopping: EarlyStoppingSpec | None = None
    """Stop when the metric no longer improves. Default: off."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """When the state of training is saved."""
    on_non_finite: NonFiniteSpec = NonFiniteSpec()
    """What is done about a loss or gradient that is not a finite number."""
    sharding: Sharding = Sharding.NONE
    """With several GPUs: None keeps the whole model on each (distributed data parallel); Full divides weights, gradients and optimizer state among them (fully sharded data parallel), for models that do not fit on one."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""
    deterministic: bool = False
    """Use only algorithms that give the same bits on every run, where a GPU's fastest ones do not."""
    debug: DebugSpec | None = None
    """Looks inside a run."""

    def resolved(self, objective: str, max_length: int = 256) -> Self:
        """The same with every default written out, for texts of so many tokens; resolving twice changes nothing."""
        fitting = max(8, MICRO_BATCH_TOKENS // max_length)
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
