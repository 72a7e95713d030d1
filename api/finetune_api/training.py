"""`spec.training`: how the weights are updated, and when to evaluate, save and stop."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field

from finetune_api.base import ApiModel, OneOf, Rule
from finetune_api.metrics import MetricName

PositiveInt = Annotated[int, Field(ge=1, le=10_000_000)]


class OptimizerName(StrEnum):
    """Optimizers."""

    ADAMW = "AdamW"


class ScheduleName(StrEnum):
    """Shapes of the learning rate over the steps, after the warmup."""

    CONSTANT = "Constant"
    LINEAR = "Linear"
    COSINE = "Cosine"


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
    """AdamW (Loshchilov & Hutter 2019)."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-5
    """Peak learning rate, for example 5e-5."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Decoupled weight decay."""
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [
        0.9,
        0.999,
    ]
    """Decay rates of the running averages of the gradient and of its square."""
    epsilon: Annotated[float, Field(gt=0, le=0.1)] = 1e-8
    """Added to the denominator for numerical stability."""


class WarmupSpec(OneOf):
    """How long the learning rate rises linearly from zero: exactly one of the members."""

    ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of all steps, for example 0.1."""
    steps: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    """Number of steps."""


class ScheduleSpec(ApiModel):
    """The learning rate over the steps."""

    name: ScheduleName = ScheduleName.LINEAR
    """Shape after the warmup: Constant, Linear (to zero) or Cosine (half a period, to zero)."""
    warmup: WarmupSpec | None = None
    """How long the rate rises from zero. Default: {ratio: 0.1}; {steps: 0} for none."""


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
    """What to report beside the loss. Default: accuracy and f1 for classification; rmse and pearson for regression."""
    best_metric: MetricName = "eval_loss"
    """Decides which checkpoint is the best, and early stopping. For example eval_loss or accuracy."""


class EarlyStoppingSpec(ApiModel):
    """Stops when the metric no longer improves."""

    metric: MetricName | None = None
    """What has to improve. Default: training.evaluation.bestMetric."""
    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Evaluations without improvement before training stops."""
    min_delta: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """A smaller change does not count as improvement."""
    restore_best: bool = True
    """Record the best evaluated weights instead of the last ones."""


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
    """Examples per forward pass and device; gradients are accumulated up to batchSize. Default: 8 at most."""
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

    def resolved(self, objective: str) -> Self:
        """The same with every default written out; resolving twice changes nothing."""
        epochs = self.epochs or (None if self.max_steps else 3)
        evaluation, stopping = self.evaluation, self.early_stopping
        return self.model_copy(
            update={
                "epochs": epochs,
                "micro_batch_size": self.micro_batch_size or min(8, self.batch_size),
                "schedule": self.schedule.model_copy(
                    update={"warmup": self.schedule.warmup or WarmupSpec(ratio=0.1)}
                ),
                "gradient_clipping": self.gradient_clipping or GradientClippingSpec(max_norm=1.0),
                "evaluation": evaluation.model_copy(
                    update={
                        "every": evaluation.every or EvaluationInterval(epochs=1),
                        "metrics": evaluation.metrics or DEFAULT_METRICS[objective],
                    }
                ),
                "early_stopping": stopping
                and stopping.model_copy(update={"metric": stopping.metric or evaluation.best_metric}),
                "checkpoint": self.checkpoint.model_copy(
                    update={"every": self.checkpoint.every or CheckpointInterval(minutes=10)}
                ),
            }
        )


DEFAULT_METRICS = {
    "classification": ["accuracy", "f1"],
    "regression": ["rmse", "pearson"],
}
