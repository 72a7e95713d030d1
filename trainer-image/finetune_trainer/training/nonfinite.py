"""A loss or gradient that is NaN or infinite: which rows and which layer cause it, and what is done.

No weight changes: the optimizer has not stepped yet when this is called, and the loop restores running statistics of
batch normalisation."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune_api.training import NonFiniteAction
from finetune_trainer.data.batching import Indices, micro_batches
from finetune_trainer.errors import DivergedError
from finetune_trainer.layers.find import watched
from finetune_trainer.training.context import Run, rows_named
from finetune_trainer.training.state import TrainState

logger = logging.getLogger(__name__)

ADVICE = "try a smaller training.optimizer.learningRate, a longer warmup or precision: Float32, and look at these rows"


@dataclass(frozen=True)
class Finding:
    """Where NaN or infinity come from."""

    rows: Indices
    """Examples of the batch: those that cause it alone, or all of them if it takes several."""
    layer: str | None
    """The first part in the order of computation, as the end of a sentence; None if it could not be seen again."""


def finite(loss: float, norm: float) -> bool:
    """Whether a step may be taken."""
    return math.isfinite(loss) and math.isfinite(norm)


def needs_start(run: Run, state: TrainState) -> bool:
    """Whether the weights before the first step have to be saved, as a rollback may go back to them."""
    return run.training.on_non_finite.action is NonFiniteAction.ROLLBACK and state.step == 0


def refuse(run: Run, state: TrainState, batch: Indices, loss: float, norm: float) -> None:
    """Deal with a step that must not be taken, as training.onNonFinite says; `state` is changed in place.

    Raises DivergedError where the policy is Fail, its limit is exceeded, or a rollback cannot help.
    """
    policy, recorder = run.training.on_non_finite, run.recorder
    run.optimizer.zero_grad(set_to_none=True)
    recorder.metrics.nonfinite.inc()
    finding = find(run, state, batch)
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    event = f"at step {state.step + 1}: {what} on {rows_named(run, finding.rows)}{_from(finding)}"
    if policy.action is NonFiniteAction.FAIL:
        raise DivergedError(f"diverged {event}; no weights were changed by it; {ADVICE}")
    if state.nonfinite >= policy.limit:
        raise DivergedError(
            f"diverged {event}; this happened {state.nonfinite + 1} times, and training.onNonFinite.limit"
            f" is {policy.limit}; {ADVICE}"
        )
    state.nonfinite += 1
    if policy.action is NonFiniteAction.SKIP_STEP:
        recorder.metrics.skipped.inc()
        logger.warning(f"NaN or infinity {event}; step skipped", extra={"facts": {"event": "skip"}})
        state.step += 1
    else:
        _roll_back(run, state, batch, event)


def _roll_back(run: Run, state: TrainState, batch: Indices, event: str) -> None:
    """Go back to a checkpoint whose weights can compute the batch, with a smaller rate.

    The newest one, unless training that came from it got no further than this: its weights may have exploded, though
    they are finite, and an older one is taken. Back to the start at most, and no more often than the policy's limit.
    """
    failed, before = state.step + 1, None
    if failed <= state.failed_step and state.returned_step > 0:
        before = state.returned_step
    while True:
        earlier = run.checkpoints.restore(before)
        if earlier is None:
            raise DivergedError(f"diverged {event}; no checkpoint is left to go back to; {ADVICE}")
        state.roll_back_to(earlier, failed, run.training.on_non_finite.learning_rate_factor)
        again = find(run, state, batch)
        if again.layer is None:
            break
        if earlier.step == 0:
            raise DivergedError(
                f"diverged {event}; the weights of step 0 give the same on {rows_named(run, again.rows)}, so a"
                f" smaller rate does not help; {ADVICE}"
            )
        before = earlier.step
    run.recorder.metrics.rollbacks.inc()
    run.recorder.rewind(state.step, state.evaluations, state.best)
    if run.debug is not None:
        run.debug.start(state.step)
    logger.warning(
        f"NaN or infinity {event}; back to step {state.step} with {state.rate_factor:g} times the learning rate",
        extra={"facts": {"event": "rollback"}},
    )


def find(run: Run, state: TrainState, batch: Indices) -> Finding:
    """Compute the batch once more, without dropout and row by row where it has to be, and find where it begins.

    Never more than a micro-batch at once: more may not fit into the device. Every rank computes the same, as passes of
    a divided model need all of them, and what one finds all know.
    """
    model, size = run.task.model, state.micro_batch_size
    model.eval()
    try:
        with torch.random.fork_rng():
            parts = [part for part in micro_batches(batch, size) if _origin(run, part, size)]
            rows = [row for part in parts for row in micro_batches(part, 1) if _origin(run, row, size)]
            suspects = [*rows, *parts, batch]
            layer = next(filter(None, (_origin(run, suspect, size) for suspect in suspects)), None)
    finally:
        model.train()
        run.optimizer.zero_grad(set_to_none=True)
    return Finding(np.array(sorted(int(row[0]) for row in rows)) if rows else batch, layer)


def _origin(run: Run, rows: Indices, size: int) -> str | None:
    """Where NaN or infinity first occur in the computation of these rows, on any rank; None if nowhere.

    As in training the gradients of micro-batches of `size` are added up, and checked once.
    """
    run.optimizer.zero_grad(set_to_none=True)
    for part in micro_batches(rows, size):
        found = _pass(run, part)
        if found is not None:
            return found
    gradients = [(name, p.grad) for name, p in run.task.model.named_parameters() if p.grad is not None]
    broken = [name for name, gradient in gradients if not all_finite(gradient)]
    return _anywhere(run, f"the gradient of {broken[-1]}" if broken else None)


def _pass(run: Run, rows: Indices) -> str | None:
    """Add to the gradients, if outputs and loss are finite on all ranks; else what is not, first."""
    inputs, targets = run.collate(rows)
    with _first_output(run.task.model) as seen:
        loss = run.task.loss(inputs, targets, rows)
    found = f"the output of {seen[0]}" if seen else None
    if found is None and not torch.isfinite(loss.loss_sum):
        found = "the loss of finite outputs"
    found = _anywhere(run, found)
    if found is None:
        loss.loss_sum.backward()  # type: ignore[no-untyped-call]
    return found


def _anywhere(run: Run, found: str | None) -> str | None:
    """What the first rank that found something found: one of them may compute wrongly alone."""
    return next(filter(None, run.ranks.all_gather(found)), None)


@contextmanager
def _first_output(model: nn.Module) -> Iterator[list[str]]:
    """The names of the modules with NaN or infinity in their output, in the order in which they were computed."""
    seen: list[str] = []

    def look(name: str, output: Any) -> None:
        if not all(all_finite(tensor) for tensor in tensors_in(output)):
            seen.append(name or type(model).__name__)

    with watched(model.named_modules(), look):
        yield seen


def tensors_in(output: Any) -> Iterator[Tensor]:
    """The tensors of floating point in what a module returned."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        yield from tensors_in(tuple(output.values()))
    elif isinstance(output, tuple | list):
        for part in output:
            yield from tensors_in(part)


def all_finite(tensor: Tensor) -> bool:
    """Whether it has no NaN and no infinity."""
    return bool(torch.isfinite(tensor).all())


def _from(finding: Finding) -> str:
    return f"; first NaN or infinity: {finding.layer}" if finding.layer else ""
