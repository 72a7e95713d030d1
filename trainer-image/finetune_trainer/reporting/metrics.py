"""Prometheus metrics of a run under /metrics: their definitions, and the registry that is made from them.

No label but the metric's name, bounded by the contract. A gauge has no sample until it is set.
"""

import math
from collections.abc import Iterable
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import Metric as Family

from finetune_api.exposition import Kind, Metric, Unit
from finetune_trainer.process.memory import peak

M = TypeVar("M", Counter, Gauge)


def _gauge(name: str, text: str, *labels: str, unit: Unit = Unit.NUMBER) -> Metric:
    return Metric(f"finetune_{name}", Kind.GAUGE, text, labels, unit)


def _counter(name: str, text: str, unit: Unit = Unit.NUMBER) -> Metric:
    return Metric(f"finetune_{name}_total", Kind.COUNTER, text, (), unit)


LOSS = _gauge("train_loss", "Training loss of the last step")
LEARNING_RATE = _gauge("train_learning_rate", "Learning rate of the last step")
GRAD_NORM = _gauge("train_grad_norm", "L2 norm of the gradient before clipping")
GRAD_NORM_CLIPPED = _gauge("train_grad_norm_clipped", "L2 norm of the gradient after clipping")
EPOCH = _gauge("train_epoch", "Epochs done")
STEPS = _counter("train_steps", "Optimizer steps; begins with the process, as every counter")
TOKENS = _counter("train_tokens", "Tokens trained on, without padding")
EXAMPLES = _counter("train_examples", "Examples trained on")
CLIPPED = _counter("train_clipped_steps", "Steps whose gradient was clipped")
NONFINITE = _counter("train_nonfinite", "Steps with a NaN or infinite loss or gradient")
SKIPPED = _counter("train_skipped_steps", "Steps skipped because of a NaN or infinite loss or gradient")
ROLLBACKS = _counter("train_rollbacks", "Rollbacks to a checkpoint after a NaN or infinite loss or gradient")
SPIKES = _counter("train_loss_spikes", "Steps with a loss spike")
DATA_WAIT = _counter("train_data_wait_seconds", "Time that steps waited for batches, on rank 0", Unit.SECONDS)
STEP_DURATION = Metric(
    "finetune_train_step_duration_seconds",
    Kind.HISTOGRAM,
    "Duration of a step",
    unit=Unit.SECONDS,
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
PADDING = _gauge("train_padding_ratio", "Share of padding among all tokens computed so far", unit=Unit.RATIO)
CHECKPOINT_DURATION = _gauge(
    "train_checkpoint_duration_seconds", "Duration of the last checkpoint", unit=Unit.SECONDS
)
CHECKPOINT_SUCCESS = _gauge(
    "train_checkpoint_last_success_timestamp_seconds", "Time of the last checkpoint", unit=Unit.TIMESTAMP
)
MEMORY = _gauge(
    "train_memory_bytes",
    "Peak memory: allocated by torch on the GPU, or resident in the process on a CPU",
    unit=Unit.BYTES,
)
EVAL_LOSS = _gauge("eval_loss", "Loss on the validation rows")
EVAL_METRIC = _gauge("eval_metric", "Metric on the validation rows", "metric")
BAD_EVALUATIONS = _gauge("early_stopping_bad_evaluations", "Evaluations without improvement")


def definitions() -> list[Metric]:
    """All of them, in this order."""
    return [one for one in globals().values() if isinstance(one, Metric)]


class _Measured(Gauge):
    """A gauge that is absent while it is NaN: the client's own begins with 0, which nobody measured."""

    def collect(self) -> Iterable[Family]:
        for family in super().collect():
            family.samples = [sample for sample in family.samples if not math.isnan(sample.value)]
            yield family


class TrainerMetrics:
    """One instance per run, with a separate registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.loss = self._measured(LOSS)
        self.learning_rate = self._measured(LEARNING_RATE)
        self.grad_norm = self._measured(GRAD_NORM)
        self.grad_norm_clipped = self._measured(GRAD_NORM_CLIPPED)
        self.epoch = self._measured(EPOCH)
        self.steps = self._made(Counter, STEPS)
        self.tokens = self._made(Counter, TOKENS)
        self.examples = self._made(Counter, EXAMPLES)
        self.clipped = self._made(Counter, CLIPPED)
        self.nonfinite = self._made(Counter, NONFINITE)
        self.skipped = self._made(Counter, SKIPPED)
        self.rollbacks = self._made(Counter, ROLLBACKS)
        self.spikes = self._made(Counter, SPIKES)
        self.data_wait = self._made(Counter, DATA_WAIT)
        self.step_duration = Histogram(
            STEP_DURATION.name, STEP_DURATION.help, buckets=STEP_DURATION.buckets, registry=self.registry
        )
        self.padding = self._measured(PADDING)
        self.checkpoint_duration = self._measured(CHECKPOINT_DURATION)
        self.checkpoint_success = self._measured(CHECKPOINT_SUCCESS)
        self._made(Gauge, MEMORY).set_function(peak)
        self.eval_loss = self._measured(EVAL_LOSS)
        self.eval_metric = self._made(Gauge, EVAL_METRIC)
        self.bad_evaluations = self._measured(BAD_EVALUATIONS)

    def _made(self, kind: type[M], metric: Metric) -> M:
        return kind(metric.name, metric.help, metric.labels, registry=self.registry)

    def _measured(self, metric: Metric) -> Gauge:
        gauge = self._made(_Measured, metric)
        gauge.set(math.nan)
        return gauge

    def serve(self, port: int) -> None:
        """Serve /metrics on all addresses. Raises OSError if the port is in use."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # else a second series for every counter
        start_http_server(port, registry=self.registry)
