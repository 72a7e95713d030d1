"""The numbers of a run and the RunReport that grows from them: metrics.jsonl, /metrics and progress posts."""

import logging
import math
from typing import Any

from finetune_api.base import MESSAGE_LENGTH
from finetune_api.combine import CombineConfig
from finetune_api.run import NOTE_LENGTH, RunConfig, RunReport
from finetune_api.status import EPOCHS_KEPT, CheckpointStatus, EpochStatus, ProgressStatus
from finetune_api.summary import SummaryConfig
from finetune_trainer.process.stop import Stop
from finetune_trainer.reporting.history import History
from finetune_trainer.reporting.metrics import TrainerMetrics
from finetune_trainer.reporting.progress import ProgressClient
from finetune_trainer.reporting.reached import Reached

CAVEATS_IN_MESSAGE = 3

logger = logging.getLogger(__name__)


class Recorder:
    """Keeps the newest report and passes it on; history and progress are only those of rank 0."""

    def __init__(self) -> None:
        self.report = RunReport()
        self.metrics = TrainerMetrics()
        self.history: History | None = None
        self.reached: Reached | None = None
        self.caveats: list[str] = []
        self._progress: ProgressClient | None = None

    def connect(self, config: RunConfig | CombineConfig | SummaryConfig, stop: Stop) -> None:
        """Serve /metrics and post progress, as the configuration says; a response may ask for a stop."""
        if config.metrics_port:
            try:
                self.metrics.serve(config.metrics_port)
            except OSError as error:
                logger.warning(f"cannot serve /metrics on port {config.metrics_port}: {error}")
        if config.progress is not None:
            self._progress = ProgressClient(config.progress, stop.prune)

    def update(self, **parts: Any) -> None:
        """Update parts of the report, and send it to the operator."""
        self.report = self.report.model_copy(update=parts)
        if self._progress is not None:
            self._progress.offer(self.report)

    def open_history(self, history: History) -> None:
        """Write every logged number there too."""
        self.history = history

    def release_history(self) -> None:
        """Stop writing there: the file is now in the model's folder."""
        self.history = None

    def caveat(self, sentence: str) -> None:
        """A warning that belongs to the result: logged now, one of its notes, and part of the final message."""
        logger.warning(sentence)
        if sentence not in self.caveats:
            self.caveats.append(sentence)
            self.update(notes=notes(self.caveats))

    def with_caveats(self, message: str) -> str:
        """The final message: the message, then the first caveats, at most 1,024 characters."""
        return with_caveats(message, self.caveats)

    def train_step(self, progress: ProgressStatus) -> None:
        """A logged training step."""
        facts = progress.to_json()
        self.update(progress=progress)
        if self.history is not None:
            self.history.add(event="train", **_numbers(facts))
        eta = "" if progress.eta_seconds is None else f", {duration(progress.eta_seconds)} left"
        logger.info(
            f"step {progress.step} of {progress.total_steps} ({progress.percent} %), epoch {progress.epoch:.2f}:"
            f" loss {progress.loss:.4f}, learning rate {progress.learning_rate:.2e},"
            f" gradient norm {progress.grad_norm:.3g}, {progress.tokens_per_second:.0f} tokens/s{eta}",
            extra={"facts": {"event": "train", **facts}},
        )

    def rewind(self, step: int, evaluations: list[EpochStatus], best: CheckpointStatus | None) -> None:
        """Training resumes from the checkpoint of a step: drop what was recorded of later ones."""
        if self.history is not None:
            self.history.rewind(step)
        self.update(epochs=evaluations[-EPOCHS_KEPT:], best=best)

    def resume(self, step: int) -> None:
        """This attempt begins from a step; say how far the one before had come."""
        before = self.reached.before() if self.reached else None
        self.update(from_step=step, reached=before)
        self.reach(step)

    def reach(self, step: int) -> None:
        """A step that was taken, logged or not."""
        if self.reached is not None:
            self.reached.note(step)

    def evaluation(
        self, evaluations: list[EpochStatus], best: CheckpointStatus | None, *, improved: bool
    ) -> None:
        """An evaluation on the validation rows; the newest of `evaluations`."""
        newest = evaluations[-1]
        self.update(epochs=evaluations[-EPOCHS_KEPT:], best=best)
        values = {"eval_loss": newest.eval_loss, **{f"eval_{k}": v for k, v in newest.metrics.items()}}
        if self.history is not None:
            chosen = {"weights": newest.weights.value} if newest.weights else {}
            self.history.add(event="evaluation", step=newest.step, epoch=newest.epoch, **values, **chosen)
        self.metrics.eval_loss.set(newest.eval_loss if newest.eval_loss is not None else math.nan)
        for name, value in newest.metrics.items():
            self.metrics.eval_metric.labels(name).set(value)
        scores = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if value is not None)
        better = f"; chosen: {newest.weights} weights" if newest.weights else ""
        mark = better + (" (best so far)" if improved else "")
        logger.info(
            f"evaluation at step {newest.step}: {scores}{mark}",
            extra={"facts": {"event": "evaluation", **newest.to_json()}},
        )

    def close(self) -> None:
        """Post what is left."""
        if self._progress is not None:
            self._progress.offer(self.report)
            self._progress.close()


def with_caveats(message: str, caveats: list[str]) -> str:
    """A message, then the first caveats, at most 1,024 characters."""
    return "; ".join([message, *_first(caveats)])[:MESSAGE_LENGTH]


def notes(caveats: list[str]) -> list[str]:
    """The first caveats, as a report has them."""
    return [caveat[:NOTE_LENGTH] for caveat in _first(caveats)]


def _first(caveats: list[str]) -> list[str]:
    more = len(caveats) - CAVEATS_IN_MESSAGE
    return [*caveats[:CAVEATS_IN_MESSAGE], *([f"{more} more warnings in the log"] * (more > 0))]


def short(value: float | None) -> float | None:
    """Six significant digits; None for what JSON cannot carry."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def duration(seconds: float) -> str:
    """Human-readable: 42 s, 3m20s, 1h52m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}m{whole % 60:02}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02}m"


def _numbers(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if isinstance(value, int | float)}
