"""Prometheus metrics of a run under /metrics.

Written by `report`; no label but the metric's name, bounded by the contract.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from finetune_trainer.process.memory import peak

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class TrainerMetrics:
    """One instance per run, with a separate registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.loss = Gauge("finetune_train_loss", "Training loss of the last step", registry=registry)
        self.learning_rate = Gauge(
            "finetune_train_learning_rate", "Learning rate of the last step", registry=registry
        )
        self.grad_norm = Gauge("finetune_train_grad_norm", "Gradient norm before clipping", registry=registry)
        self.grad_norm_clipped = Gauge(
            "finetune_train_grad_norm_clipped", "Gradient norm after clipping", registry=registry
        )
        self.epoch = Gauge("finetune_train_epoch", "Epochs done", registry=registry)
        self.steps = Counter("finetune_train_steps", "Optimizer steps of this process", registry=registry)
        self.tokens = Counter(
            "finetune_train_tokens", "Tokens trained on, without padding", registry=registry
        )
        self.examples = Counter("finetune_train_examples", "Examples trained on", registry=registry)
        self.clipped = Counter(
            "finetune_train_clipped_steps", "Steps with a clipped gradient", registry=registry
        )
        self.nonfinite = Counter(
            "finetune_train_nonfinite", "Steps with a NaN or infinite loss or gradient", registry=registry
        )
        self.skipped = Counter(
            "finetune_train_skipped_steps",
            "Steps skipped because of a NaN or infinite loss or gradient",
            registry=registry,
        )
        self.rollbacks = Counter(
            "finetune_train_rollbacks",
            "Rollbacks to a checkpoint after a NaN or infinite loss or gradient",
            registry=registry,
        )
        self.spikes = Counter("finetune_train_loss_spikes", "Steps with a loss spike", registry=registry)
        self.data_wait = Counter(
            "finetune_train_data_wait_seconds", "Time spent building batches", registry=registry
        )
        self.step_duration = Histogram(
            "finetune_train_step_duration_seconds", "Duration of a step", buckets=BUCKETS, registry=registry
        )
        self.padding = Gauge(
            "finetune_train_padding_ratio",
            "Share of padding among all tokens computed so far",
            registry=registry,
        )
        self.checkpoint_duration = Gauge(
            "finetune_train_checkpoint_duration_seconds", "Duration of the last checkpoint", registry=registry
        )
        self.checkpoint_success = Gauge(
            "finetune_train_checkpoint_last_success_timestamp_seconds",
            "Time of the last checkpoint",
            registry=registry,
        )
        self.memory = Gauge(
            "finetune_train_memory_bytes",
            "Peak memory: allocated on the GPU, or resident in the process",
            registry=registry,
        )
        self.memory.set_function(peak)
        self.eval_loss = Gauge("finetune_eval_loss", "Loss on the validation rows", registry=registry)
        self.eval_metric = Gauge(
            "finetune_eval_metric", "Metric on the validation rows", ["metric"], registry=registry
        )
        self.bad_evaluations = Gauge(
            "finetune_early_stopping_bad_evaluations", "Evaluations without improvement", registry=registry
        )

    def serve(self, port: int) -> None:
        """Serve /metrics on all addresses. Raises OSError if the port is in use."""
        start_http_server(port, registry=self.registry)
