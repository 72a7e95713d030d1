"""All that a run tells: log lines, metrics.jsonl, /metrics, progress posts, and the RunReport.

Called from every stage of a run.

Stdout carries one JSON object a line, each with a `message` for people.
"""

import json
import math
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from finetune_api.combine import CombineConfig
from finetune_api.run import RunConfig, RunReport
from finetune_api.status import CheckpointStatus, EpochStatus, ProgressStatus
from finetune_trainer.process.stop import Stop
from finetune_trainer.reporting.history import History
from finetune_trainer.reporting.metrics import TrainerMetrics
from finetune_trainer.reporting.progress import ProgressClient


class Reporter:
    """Collects the facts of a run in `report` and passes them on; a quiet one, of any rank but 0, only collects."""

    def __init__(self, attempt: int = 1, out: TextIO | None = None, *, quiet: bool = False) -> None:
        self.report = RunReport(attempt=attempt)
        self.metrics = TrainerMetrics()
        self.history: History | None = None
        self._progress: ProgressClient | None = None
        self._out, self._quiet = out, quiet

    def connect(self, config: RunConfig | CombineConfig, stop: Stop) -> None:
        """Serve /metrics and post progress, as the configuration says; an answer may ask for a stop."""
        if self._quiet:
            return
        if config.metrics_port:
            try:
                self.metrics.serve(config.metrics_port)
            except OSError as error:
                self.say(f"/metrics is not served on port {config.metrics_port}: {error}", level="warning")
        if config.progress is not None:
            self._progress = ProgressClient(
                config.progress, lambda text: self.say(text, level="warning"), stop.prune
            )

    def say(self, message: str, *, level: str = "info", **facts: Any) -> None:
        """Write one log line."""
        if self._quiet:
            return
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": moment, "level": level, "message": message, **facts}
        print(json.dumps(line, ensure_ascii=False), file=self._out or sys.stdout, flush=True)

    def update(self, **parts: Any) -> None:
        """Change parts of the report, and offer it to the operator."""
        self.report = self.report.model_copy(update=parts)
        if self._progress is not None:
            self._progress.offer(self.report)

    def training(self, progress: ProgressStatus) -> None:
        """A logged training step."""
        facts = progress.to_json()
        self.update(progress=progress)
        if self.history is not None:
            self.history.add(event="train", **_numbers(facts))
        eta = "" if progress.eta_seconds is None else f", {duration(progress.eta_seconds)} left"
        self.say(
            f"step {progress.step} of {progress.total_steps} ({progress.percent} %), epoch {progress.epoch:.2f}:"
            f" loss {progress.loss:.4f}, rate {progress.learning_rate:.2e}, gradient {progress.grad_norm:.3g},"
            f" {progress.tokens_per_second:.0f} tokens/s{eta}",
            event="train",
            **facts,
        )

    def back_to(self, step: int, evaluations: list[EpochStatus], best: CheckpointStatus | None) -> None:
        """Training goes on from a checkpoint: what was told of later steps is taken back."""
        if self.history is not None:
            self.history.rewind(step)
        self.update(epochs=evaluations[-50:], best=best)

    def evaluation(
        self, evaluations: list[EpochStatus], best: CheckpointStatus | None, *, improved: bool
    ) -> None:
        """An evaluation on the validation rows; the newest of `evaluations`."""
        newest = evaluations[-1]
        self.update(epochs=evaluations[-50:], best=best)
        values = {"eval_loss": newest.eval_loss, **{f"eval_{k}": v for k, v in newest.metrics.items()}}
        if self.history is not None:
            self.history.add(event="evaluation", step=newest.step, epoch=newest.epoch, **values)
        self.metrics.eval_loss.set(newest.eval_loss if newest.eval_loss is not None else math.nan)
        for name, value in newest.metrics.items():
            self.metrics.eval_metric.labels(name).set(value)
        told = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if value is not None)
        mark = " (best so far)" if improved else ""
        self.say(f"evaluation at step {newest.step}: {told}{mark}", event="evaluation", **newest.to_json())

    def close(self) -> None:
        """Post what is left."""
        if self._progress is not None:
            self._progress.offer(self.report)
            self._progress.close()


def short(value: float | None) -> float | None:
    """Six significant digits; None for what JSON cannot carry."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def duration(seconds: float) -> str:
    """As people say it: 42 s, 3m20s, 1h52m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}m{whole % 60:02}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02}m"


def _numbers(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if isinstance(value, int | float)}
