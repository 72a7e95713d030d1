"""The training loop: evaluate, checkpoint, stop, step, log. Called by `run`.

The one rule: an objective returns (loss_sum, weight), and only `_gradients` divides, by the weight summed over all
micro-batches of the step. So any micro-batch size gives the same update.
"""

import time
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm

from finetune_api.status import CheckpointStatus
from finetune_api.training import GradientClippingSpec
from finetune_trainer.control import check_finite, halved, is_out_of_memory
from finetune_trainer.data.batching import Indices, micro_batches
from finetune_trainer.data.collation import collate
from finetune_trainer.errors import DivergedError, StoppedError
from finetune_trainer.freezing import apply_thaw, trained_parameters
from finetune_trainer.noting import evaluate_now, log_step
from finetune_trainer.report import Reporter
from finetune_trainer.schedules import factor
from finetune_trainer.session import Run, Step, checkpoint_due, evaluation_due, is_finished
from finetune_trainer.state import TrainState


def train(run: Run, state: TrainState) -> None:
    """Bring `state` to the end of training. Raises StoppedError (with a checkpoint saved) or DivergedError."""
    while True:
        improved = evaluation_due(run, state) and evaluate_now(run, state)
        finished = is_finished(run, state)
        if run.stop.requested or finished or improved or checkpoint_due(run, state):
            save_now(run, state)
        if run.stop.requested:
            raise StoppedError(f"stopped by {run.stop.signal_name} at step {state.step}; {_saved(state)}")
        if finished:
            return
        thaw(run, state)
        taken = train_step(run, state)
        log_step(run, state, taken)


def thaw(run: Run, state: TrainState) -> None:
    """Train from this step on what gradual unfreezing adds, and say so."""
    if run.freeze is not None and apply_thaw(run.judge.model, run.freeze, state.step, run.steps_per_epoch):
        trained = trained_parameters(run.judge.model)
        run.reporter.say(f"step {state.step + 1}: {trained:,} parameters are trained from here on")


def train_step(run: Run, state: TrainState) -> Step:
    """One update of the weights. Raises DivergedError before it changes any weight, DeviceMemoryError."""
    began, batch = time.perf_counter(), run.batch(state.step)
    rate = learning_rate(run, state)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    loss_sum, weight = _gradients_that_fit(run, state, batch)
    loss = loss_sum / weight
    norm = clip(_parameters(run), run.training.gradient_clipping, run.reporter)
    try:
        check_finite(state.step + 1, loss, norm, lambda: _culprits(run, batch))
    except DivergedError:
        run.reporter.metrics.nonfinite.inc()
        raise
    run.optimizer.step()
    seconds, lengths = time.perf_counter() - began, run.train.lengths[batch]
    state.step += 1
    state.loss_sum += loss_sum
    state.weight += weight
    state.tokens += int(lengths.sum())
    state.positions += _positions(lengths, state.micro_batch_size)
    state.seconds += seconds
    return Step(loss, norm, rate, len(batch), int(lengths.sum()), seconds)


def learning_rate(run: Run, state: TrainState) -> float:
    """Of the next step, for the groups at full scale."""
    spec = run.training
    return (
        spec.optimizer.learning_rate * factor(spec.schedule, state.step, run.total_steps) * state.rate_factor
    )


def _gradients_that_fit(run: Run, state: TrainState, batch: Indices) -> tuple[float, float]:
    """`_gradients`, with the micro-batch halved, from the same random state, as long as the device is full."""
    device = run.judge.compute.device
    random = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    while True:
        try:
            return _gradients(run, batch, state.micro_batch_size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        run.optimizer.zero_grad(set_to_none=True)
        state.micro_batch_size = halved(state.micro_batch_size, int(run.train.lengths[batch].max()))
        run.reporter.say(
            f"out of device memory at step {state.step + 1}: micro-batches of {state.micro_batch_size} from now on;"
            f" the batch of {run.training.batch_size} stays as it is",
            level="warning",
        )
        torch.set_rng_state(random)
        if cuda is not None:
            torch.cuda.empty_cache()
            torch.cuda.set_rng_state(cuda, device)


def _gradients(run: Run, batch: Indices, size: int) -> tuple[float, float]:
    """Gradient of the mean loss over the whole batch, in `.grad`; returns the loss as sum and weight."""
    run.optimizer.zero_grad(set_to_none=True)
    judge, metrics = run.judge, run.reporter.metrics
    total = torch.zeros(2, dtype=torch.float64, device=judge.compute.device)
    for micro in micro_batches(batch, size):
        began = time.perf_counter()
        inputs, targets = collate(run.train, micro, judge.pad_id, judge.compute.device)
        metrics.data_wait.inc(time.perf_counter() - began)
        loss = judge.objective.loss(judge.logits(inputs), targets)
        judge.compute.accelerator.backward(loss.loss_sum)
        total += torch.stack([loss.loss_sum.detach().double(), loss.weight.double()])
    loss_sum, weight = total.tolist()
    for parameter in _parameters(run):
        assert parameter.grad is not None
        parameter.grad.mul_(1.0 / weight)
    return loss_sum, weight


def clip(
    parameters: list[torch.nn.Parameter], spec: GradientClippingSpec | None, reporter: Reporter
) -> float:
    """Bound the gradient; returns its L2 norm before that."""
    bound = spec.max_norm if spec else None
    if bound:
        norm = float(clip_grad_norm_(parameters, bound))
        reporter.metrics.clipped.inc(norm > bound)
        return norm
    norm = float(get_total_norm([p.grad for p in parameters if p.grad is not None]))
    if spec and spec.max_value is not None:
        clip_grad_value_(parameters, spec.max_value)
    return norm


def _parameters(run: Run) -> list[torch.nn.Parameter]:
    return [p for group in run.optimizer.param_groups for p in group["params"] if p.grad is not None]


def _culprits(run: Run, batch: Indices) -> list[str]:
    """The rows whose loss alone is not finite; all rows of the batch if it is none."""
    found = []
    with torch.no_grad():
        for index in batch:
            inputs, targets = collate(
                run.train, batch[batch == index], run.judge.pad_id, run.judge.compute.device
            )
            if not torch.isfinite(run.judge.objective.loss(run.judge.logits(inputs), targets).loss_sum):
                found.append(index)
    lines = sorted(int(run.train.lines[index]) for index in (found or batch))
    return [f"{run.train.name} row {line}" for line in lines]


def save_now(run: Run, state: TrainState) -> None:
    """Write a checkpoint and say so; before the first step there is nothing to lose."""
    run.saved_at = time.monotonic()
    if state.step == 0:
        return
    run.save(state)
    metrics = run.reporter.metrics
    metrics.checkpoint_duration.set(time.monotonic() - run.saved_at)
    metrics.checkpoint_success.set_to_current_time()
    run.reporter.update(latest=CheckpointStatus(step=state.step))


def _positions(lengths: Any, size: int) -> int:
    return sum(int(part.max()) * len(part) for part in micro_batches(lengths, size))


def _saved(state: TrainState) -> str:
    return "checkpoint saved" if state.step else "nothing had been trained yet"
