"""The training loop: evaluate, checkpoint, stop, step, log.

The one rule: an objective returns (loss_sum, weight), and only `_gradients` divides, by the weight summed over all
micro-batches and ranks of the step. So any micro-batch size and any number of ranks give the same update.
All ranks run this loop, and decide alike: what only one of them knows is exchanged with the loss of every step."""

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from finetune_api.status import CheckpointStatus
from finetune_trainer.errors import PrunedError, StoppedError
from finetune_trainer.layers.batch_norm import (
    Statistics,
    restore_statistics,
    rows_excluded,
    running_statistics,
)
from finetune_trainer.models.freezing import apply_unfreezing, trained_parameters
from finetune_trainer.optimization.clipping import scale_and_clip
from finetune_trainer.optimization.schedules import factor
from finetune_trainer.process.memory import memory_estimate, next_micro_batch_size
from finetune_trainer.training.context import Run, StepResult, checkpoint_due, evaluation_due, is_finished
from finetune_trainer.training.evaluate import evaluation_step
from finetune_trainer.training.nonfinite import (
    finite,
    needs_start,
    refuse,
)
from finetune_trainer.training.record import log_step, pruned_message, record_last_step, record_spike
from finetune_trainer.training.state import TrainState

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GradientResult:
    """What the forward and backward passes of a step gave, over all ranks."""

    loss_sum: float
    weight: float
    computed_tokens: float
    """With padding."""
    scale: float
    """By which the gradient has to be multiplied to be that of the mean loss."""


def train(run: Run, state: TrainState) -> None:
    """Bring `state` to the end of training.

    Raises StoppedError (with a checkpoint saved), PrunedError (without), DivergedError, DeviceMemoryError.
    """
    try:
        _train(run, state)
    finally:
        run.feed.close()


def _train(run: Run, state: TrainState) -> None:
    run.exchange()
    if needs_start(run, state):
        run.checkpoints.save(state)
        run.checkpoints.settle()
    taken: StepResult | None = None
    while True:
        improved = evaluation_due(run, state) and evaluation_step(run, state)
        stopping, finished = run.stopping, is_finished(run, state)
        settle(run, wait=stopping)
        if stopping and run.stop.pruned is not None:
            raise PrunedError(pruned_message(run, state))
        if stopping or finished or improved or checkpoint_due(run, state):
            save_now(run, state)
        settle(run, wait=stopping or finished or not run.checkpoints.background)
        if stopping:
            record_last_step(run, state, taken)
            raise StoppedError(f"stopped by {run.stop.signal_name} at step {state.step}; {_saved(state)}")
        if finished:
            return
        unfreeze(run, state)
        with run.heartbeat.step(state.step + 1):
            taken = train_step(run, state)
        if taken is not None:
            log_step(run, state, taken)


def unfreeze(run: Run, state: TrainState) -> None:
    """Train from this step on what gradual unfreezing adds, and say so."""
    if run.freeze is not None and apply_unfreezing(
        run.task.model, run.freeze, state.step, run.steps_per_epoch
    ):
        trained = trained_parameters(run.task.model)
        logger.info(f"step {state.step + 1}: {trained:,} parameters are trained from here on")


def train_step(run: Run, state: TrainState) -> StepResult | None:
    """One update of the weights, or None after NaN or infinity. Raises DivergedError, DeviceMemoryError."""
    began, batch = time.perf_counter(), run.batch(state.step)
    run.waited = time.perf_counter() - began
    rate = learning_rate(run, state)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    statistics = running_statistics(run.norms)
    with run.debug.watch(state.step + 1) if run.debug else nullcontext():
        passes = _gradients_that_fit(run, state, statistics)
    # a step may predict nothing: only prompts, only cut words
    loss = passes.loss_sum / passes.weight if passes.weight else 0.0
    norms = scale_and_clip(_parameters(run), passes.scale, run.training.gradient_clipping)
    if not finite(loss, norms.before):
        restore_statistics(statistics)
        refuse(run, state, batch, loss, norms.before)
        return None
    run.optimizer.step()
    seconds, lengths = time.perf_counter() - began, run.train.lengths[batch]
    record_spike(run, state, batch, loss)
    state.step += 1
    if run.average is not None:
        run.average.update(state.step)
    state.loss_sum += passes.loss_sum
    state.weight += passes.weight
    state.tokens += int(lengths.sum())
    state.computed_tokens += int(passes.computed_tokens)
    state.seconds += seconds
    return StepResult(loss, norms, rate, len(batch), int(lengths.sum()), seconds, run.waited)


def learning_rate(run: Run, state: TrainState) -> float:
    """Of the next step, for the groups at full scale."""
    spec = run.training
    share = factor(spec.schedule, state.step, run.total_steps, from_zero=state.warmup_from_zero)
    return spec.optimizer.learning_rate * share * state.rate_factor


def _gradients_that_fit(run: Run, state: TrainState, statistics: Statistics) -> GradientResult:
    """`_gradients`, with the micro-batch halved as long as a device is full.

    Every time from the same random state and the same running `statistics`.
    """
    device = run.task.compute.device
    random = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    while True:
        errors = list[str]()
        passes = _gradients(run, state.step, state.micro_batch_size, errors)
        if passes is not None:
            return passes
        run.feed.close()
        longest = int(run.train.lengths[run.batch(state.step)].max())
        parts = memory_estimate(run.task.model, run.optimizer)
        reason = run.ranks.first(errors)
        state.micro_batch_size = next_micro_batch_size(state.micro_batch_size, longest, parts, reason)
        logger.warning(
            f"out of device memory at step {state.step + 1} ({reason}): micro-batches of"
            f" {state.micro_batch_size} from now on; the batch of {run.training.batch_size} stays as it is"
        )
        restore_statistics(statistics)
        torch.set_rng_state(random)
        if cuda is not None:
            torch.cuda.empty_cache()
            torch.cuda.set_rng_state(cuda, device)


def _gradients(run: Run, step: int, size: int, errors: list[str]) -> GradientResult | None:
    """Leave the gradient of the loss over the batch of a step in `.grad`, the same on all ranks, but for its scale.

    None if some rank was out of memory, which leaves no gradient; this rank's error is added to `errors`.
    """
    run.optimizer.zero_grad(set_to_none=True)
    loss_sum, weight, computed = 0.0, 0.0, 0.0
    if run.task.objective.looks_ahead and not _look_ahead(run, step, size, errors):
        return None
    try:
        loss_sum, weight, computed = _accumulate(run, step, size)
    except RuntimeError as error:
        errors.append(run.ranks.check_memory(error))
    if not run.ranks.counts:
        loss_sum, weight, computed = 0.0, 0.0, 0.0
    loss_sum, weight, computed, somewhere_full = run.exchange(loss_sum, weight, computed, len(errors))
    if somewhere_full:
        run.optimizer.zero_grad(set_to_none=True)
        return None
    scale = run.ranks.all_reduce_gradients(_parameters(run), weight or 1.0)
    return GradientResult(loss_sum, weight, computed, scale)


def _look_ahead(run: Run, step: int, size: int, errors: list[str]) -> bool:
    """What the objective needs to know of the whole batch, on all ranks; False if some rank was out of memory."""
    total, task = 0.0, run.task
    try:
        with torch.no_grad():
            for micro in run.micro_batches(step, size):
                total += micro.counts * task.objective.look_ahead(task.forward, micro.inputs).item()
    except RuntimeError as error:
        errors.append(run.ranks.check_memory(error))
    total, somewhere_full = run.ranks.all_reduce_sum(total * run.ranks.counts, len(errors))
    run.ahead = total / len(run.batch(step))
    return not somewhere_full


def _accumulate(run: Run, step: int, size: int) -> tuple[float, float, int]:
    """Forward and backward passes of this rank; its loss as sum and weight, and the tokens it computed."""
    task, computed = run.task, 0
    total = torch.zeros(2, dtype=torch.float64, device=task.compute.device)
    for micro in run.micro_batches(step, size, int(task.objective.looks_ahead)):
        computed += micro.inputs["input_ids"].numel()
        with nullcontext() if micro.counts else rows_excluded(run.norms):
            loss = task.loss(micro.inputs, micro.targets, micro.rows)
            (loss.loss_sum * micro.counts).backward()  # type: ignore[no-untyped-call]
        total += micro.counts * torch.stack([loss.loss_sum.detach().double(), loss.weight.double()])
    loss_sum, weight = total.tolist()
    return loss_sum, weight, computed


def _parameters(run: Run) -> list[torch.nn.Parameter]:
    return [p for group in run.optimizer.param_groups for p in group["params"] if p.grad is not None]


def save_now(run: Run, state: TrainState) -> None:
    """Begin to write a checkpoint; before the first step there is nothing to lose."""
    settle(run)
    run.saved_at = time.monotonic()
    if state.step > 0:
        run.checkpoints.save(state)


def settle(run: Run, *, wait: bool = True) -> None:
    """Say that the checkpoint that is being written is whole: now if all ranks have written it, else after a `wait`."""
    step = run.checkpoints.settle() if wait or run.checkpoint_written else None
    run.checkpoint_written = False
    if step is None:
        return
    metrics = run.recorder.metrics
    metrics.checkpoint_duration.set(time.monotonic() - run.saved_at)
    metrics.checkpoint_success.set_to_current_time()
    run.recorder.update(latest=CheckpointStatus(step=step))


def _saved(state: TrainState) -> str:
    return "checkpoint saved" if state.step else "nothing had been trained yet"
