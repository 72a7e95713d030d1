"""Notes what a step or an evaluation gave: in the state, in the report, in the metrics."""

import logging
import time
from datetime import UTC, datetime

from finetune_api.metrics import improves, plain
from finetune_api.status import CheckpointStatus, EarlyStoppedStatus, EpochStatus, ProgressStatus
from finetune_trainer.data.batching import Indices
from finetune_trainer.process.memory import peak
from finetune_trainer.reporting.recorder import duration, short
from finetune_trainer.training.context import Run, Step, rows_named
from finetune_trainer.training.evaluate import EVALUATION_FACTOR, defined
from finetune_trainer.training.state import TrainState

logger = logging.getLogger(__name__)

LOG_LINES = 50
LOG_SECONDS = 30.0


def evaluate_now(run: Run, state: TrainState) -> bool:
    """Score the validation rows and note it; True if the best weights so far have to be kept for the end."""
    began = time.perf_counter()
    scores = run.judge.evaluate(run.validation, state.micro_batch_size * EVALUATION_FACTOR)
    if scores is None:
        return False
    state.seconds += time.perf_counter() - began
    spec, stopping = run.training.evaluation, run.training.early_stopping
    improved = note_evaluation(run, state, scores)
    _note_plateau(run, state, scores[plain(spec.best_metric)])
    if stopping is not None:
        state.patience = state.patience.after(
            stopping, scores.get(plain(stopping.metric or spec.best_metric))
        )
        run.recorder.metrics.bad_evaluations.set(state.patience.bad_evaluations)
    run.recorder.evaluation(state.evaluations, state.best, improved=improved)
    return improved and stopping is not None and stopping.restore_best


def _note_plateau(run: Run, state: TrainState, value: float) -> None:
    spec = run.training.schedule.plateau
    if spec is None:
        return
    state.plateau = state.plateau.after(spec, run.training.evaluation.best_metric, value)
    if state.plateau.rate_factor != 1:
        state.rate_factor *= state.plateau.rate_factor
        logger.info(
            f"{run.training.evaluation.best_metric} did not improve in {spec.patience + 1} evaluations: the learning"
            f" rate is multiplied by {spec.factor:g}"
        )


def note_evaluation(run: Run, state: TrainState, scores: dict[str, float]) -> bool:
    """Add an evaluation to the state; True if it is the best so far."""
    spec, key = run.training.evaluation, plain(run.training.evaluation.best_metric)
    wanted = [plain(name) for name in spec.metrics or []]
    numbers, undefined = defined(scores, list(dict.fromkeys(["loss", key, *wanted])))
    if undefined:
        logger.warning(f"not defined on these rows: {', '.join(undefined)}")
    state.evaluations.append(
        EpochStatus(
            epoch=round(state.step / run.steps_per_epoch, 4),
            step=state.step,
            train_loss=short(state.train_loss),
            eval_loss=short(numbers.pop("loss", None)),
            metrics={name: short(value) or 0.0 for name, value in numbers.items()},
            seconds=round(state.seconds - state.evaluated_seconds, 3),
        )
    )
    state.evaluated_step, state.evaluated_seconds = state.step, state.seconds
    state.loss_sum = state.weight = 0.0
    value = scores[key]
    if key in undefined or not improves(key, value, state.best.value if state.best else None):
        return False
    state.best = CheckpointStatus(step=state.step, metric=spec.best_metric, value=value)
    return True


def pruned(run: Run, state: TrainState) -> str:
    """The last words of a trial that is pruned: the goal where it was measured last and at best, and why."""
    goal, key = run.training.evaluation.best_metric, plain(run.training.evaluation.best_metric)
    told = f"{goal} was not measured yet"
    if state.evaluations:
        last = state.evaluations[-1]
        value = last.eval_loss if key == "loss" else last.metrics.get(key)
        told = f"{goal} was {'not defined' if value is None else f'{value:g}'} at step {last.step}"
    if state.best and state.best.step != state.evaluations[-1].step:
        told += f", {state.best.value:g} at best (step {state.best.step})"
    return f"pruned at step {state.step}: {told}; {run.stop.pruned}"


def log_step(run: Run, state: TrainState, step: Step) -> None:
    """Pass a step's numbers on; a line in the log every so often."""
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
    often = max(1, total // LOG_LINES)
    now = time.monotonic()
    if state.step in (1, total) or state.step % often == 0 or now - run.logged_at > LOG_SECONDS:
        run.logged_at = now
        run.recorder.train_step(progress_of(run, state, step))


def tell_spike(run: Run, state: TrainState, batch: Indices, loss: float) -> None:
    """Say so when the loss of the step that is being taken stands out from those before it."""
    usual = run.spikes.note(loss)
    if usual is None:
        return
    run.recorder.metrics.spikes.inc()
    logger.warning(
        f"loss spike at step {state.step + 1}: {loss:.4g}, where {usual:.4g} is usual, on {rows_named(run, batch)}",
        extra={"facts": {"event": "spike"}},
    )


def progress_of(run: Run, state: TrainState, step: Step) -> ProgressStatus:
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
        last_update_time=datetime.now(UTC),
    )


def padding(state: TrainState) -> float:
    """Share of all computed positions that were padding."""
    return 1 - state.tokens / state.positions if state.positions else 0.0


def note_early_stop(run: Run, state: TrainState) -> str:
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
    kind = "GPU time" if run.judge.compute.device.type == "cuda" else "computing time"
    told = f"stopped early at step {state.step} of {run.total_steps}, which saved about {duration(saved)} of {kind}"
    logger.info(f"{told}: {reason}")
    return f"; {told}"
