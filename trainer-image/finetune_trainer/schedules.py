"""The learning rate as a pure function of the step: nothing of it needs to be saved. Called by `loop`.

The shapes are those of transformers' `get_*_schedule_with_warmup`: step 0, the first, has rate 0 when there is warmup.
"""

import math
from collections.abc import Callable

from finetune_api.training import ScheduleName, ScheduleSpec

Shape = Callable[[float], float]
"""The factor after the warmup as a function of the share of the remaining steps done, 0 to 1."""


def constant(done: float) -> float:
    """The peak rate throughout."""
    return 1.0


def linear(done: float) -> float:
    """Falls to zero in a straight line."""
    return 1.0 - done


def cosine(done: float) -> float:
    """Falls to zero in half a period of the cosine (Loshchilov & Hutter 2017, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * done))


SHAPES: dict[ScheduleName, Shape] = {
    ScheduleName.CONSTANT: constant,
    ScheduleName.LINEAR: linear,
    ScheduleName.COSINE: cosine,
}


def warmup_steps(spec: ScheduleSpec, total_steps: int) -> int:
    """Steps over which the rate rises."""
    warmup = spec.warmup
    if warmup is None:
        return 0
    return warmup.steps if warmup.steps is not None else math.ceil((warmup.ratio or 0.0) * total_steps)


def factor(spec: ScheduleSpec, step: int, total_steps: int) -> float:
    """Share of the peak learning rate for the optimizer step number `step`, counted from 0."""
    rising = warmup_steps(spec, total_steps)
    if step < rising:
        return step / rising
    done = (step - rising) / max(1, total_steps - rising)
    return max(0.0, SHAPES[spec.name](min(1.0, done)))
