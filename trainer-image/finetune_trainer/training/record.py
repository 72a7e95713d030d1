"""Records what a step gave and how training ended: in the log, in the report, in the metrics."""

import logging
import time
from datetime import UTC, datetime

from finetune_api.metrics import plain
from finetune_api.status import EarlyStoppedStatus, ProgressStatus
from finetune_trainer.data.batching import Indices
from finetune_trainer.process.memory import host_peak, peak
from finetune_trainer.reporting.recorder import duration, short
from finetune_trainer.training.context import Run, StepResult, rows_named
from finetune_trainer.training.state import TrainState

logger = logging.getLogger(__name__)

LOG_LINES = 50
LOG_SECONDS = 30.0


def pruned_message(run: Run, state: TrainState) -> str:
    """How a pruned trial ends: the goal as measured last and at best, and why it was pruned."""
    goal, key = run.training.evaluation.best_metric, plain(run.training.evaluation.best_metric)
    measured = f"{goal} was not measured yet"
    if state.evaluations:
        last = state.evaluations[-1]
        value = last.eval_loss if key == "loss" else last.metrics.get(key)
        measured = f"{goal} was {'not defined' if value is None else f'{value:g}'} at step {last.step}"
    if state.best and state.best.step != state.evaluations[-1].step:
        measured += f", {state.best.value:g} at best (step {state.best.step})"
    return f"pruned at step {state.step}: {measured}; {run.stop.pruned}"


def log_step(run: Run, state: TrainState, step: StepResult) -> None:
    """Update the metrics with every step, and log about one in fifty."""
    metrics, total = run.recorder.metrics, run.total_steps
    metrics.loss.set(step.loss)
    metrics.learning_rate.set(step.learning_rate)
    metrics.grad_norm.set(step.norms.before)
    metrics.grad_norm_clipped.set(step.norms.after)
    metrics.clipped.inc(step.norms.clipped)
    metrics.data_wait.inc(step.waited)
    metrics.epoch.set(state.step / run.steps_per_epoch)
    metrics.steps.inc()
    metrics.tokens.inc(step.tokens)
    metrics.examples.inc(step.examples)
    metrics.step_duration.observe(step.seconds)
    metrics.padding.set(padding(state))
    run.recorder.reach(state.step)
    often = max(1, total // LOG_LINES)
    now = time.monotonic()
    if state.step in (1, total) or state.step % often == 0 or now - run.logged_at > LOG_SECONDS:
        run.logged_at = now
        run.recorder.train_step(progress_of(run, state, step))


def record_last_step(run: Run, state: TrainState, step: StepResult | None) -> None:
    """What the report says of a run that stops: one step in fifty is logged, and this may be another."""
    if step is not None:
        run.recorder.update(progress=progress_of(run, state, step))


def record_spike(run: Run, state: TrainState, batch: Indices, loss: float) -> None:
    """Warn when the loss of the step that is being taken stands out from those before it."""
    usual = run.spikes.note(loss, state.evaluations[0].train_loss if state.evaluations else None)
    if usual is None:
        return
    run.recorder.metrics.spikes.inc()
    logger.warning(
        f"loss spike at step {state.step + 1}: {loss:.4g}, where {usual:.4g} is usual, on {rows_named(run, batch)}",
        extra={"facts": {"event": "spike"}},
    )


def progress_of(run: Run, state: TrainState, step: StepResult) -> ProgressStatus:
    """Where training stands after a step."""
    per_step = state.seconds / state.step
    return ProgressStatus(
        percent=100 * state.step // run.total_steps,
        step=state.step,
        total_steps=run.total_steps,
        epoch=round(state.step / run.steps_per_epoch, 4),
        loss=short(step.loss),
        learning_rate=short(step.learning_rate),
        grad_norm=short(step.norms.before),
        grad_norm_clipped=short(step.norms.after),
        tokens_per_second=short(step.tokens / step.seconds),
        data_wait_share=short(step.waited / step.seconds),
        padding_ratio=short(padding(state)),
        memory_bytes=peak(),
        eta_seconds=round(per_step * (run.total_steps - state.step)),
        host_memory_bytes=host_peak(),
        train_seconds=round(state.seconds, 3),
        last_update_time=datetime.now(UTC),
    )


def padding(state: TrainState) -> float:
    """Share of padding in all computed tokens."""
    return 1 - state.tokens / state.computed_tokens if state.computed_tokens else 0.0


def record_early_stop(run: Run, state: TrainState) -> str:
    """Report that early stopping ended training before its plan, and what that saved; returns it for the message."""
    stopping = run.training.early_stopping
    if stopping is None or not state.patience.exhausted(stopping) or state.step >= run.total_steps:
        return ""
    best = "none" if state.patience.best is None else f"{state.patience.best:g}"
    reason = (
        f"{stopping.metric} did not improve by more than {stopping.min_delta:g}"
        f" in {stopping.patience} evaluations (best {best})"
    )
    left, processes = run.total_steps - state.step, run.ranks.world_size
    saved = round(state.seconds / state.step * left * processes)
    run.recorder.update(
        early_stopped=EarlyStoppedStatus(
            step=state.step, metric=stopping.metric or "eval_loss", reason=reason, saved_seconds=saved
        )
    )
    kind = "GPU time" if run.task.compute.device.type == "cuda" else "computing time"
    message = f"stopped early at step {state.step} of {run.total_steps}, which saved about {duration(saved)} of {kind}"
    logger.info(f"{message}: {reason}")
    return f"; {message}"
