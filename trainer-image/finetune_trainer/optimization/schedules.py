"""The learning rate as a pure function of the step.

In the warm-up of n steps, step s (counted from 0) has (s + 1) / n of the rate, so that the first step trains too. After
it the shapes are those of transformers' `get_*_schedule`. OneCycle is torch's OneCycleLR at its defaults, without its
cycling of the momentum. Plateau is constant here: what evaluations change is `TrainState.rate_factor`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from finetune_api.training import ScheduleName, ScheduleSpec, WarmupSpec

INITIAL_DIVISOR, FINAL_DIVISOR = 25.0, 1e4
"""OneCycle starts at peak / 25 and ends at a ten-thousandth of that, as in torch."""
TIMESCALE = 10_000
"""InverseSqrt without warm-up falls on this scale of steps, as in transformers."""


@dataclass(frozen=True)
class Position:
    """Where a step lies in the plan."""

    step: int
    rising: int
    """Steps of the warm-up."""
    total: int
    spec: ScheduleSpec

    @property
    def done(self) -> float:
        """Share of the steps after the warm-up that are done, 0 to 1."""
        return min(1.0, (self.step - self.rising) / max(1, self.total - self.rising))


Shape = Callable[[Position], float]
"""The factor, 0 to 1, before minRatio is applied."""


def constant(at: Position) -> float:
    """The peak rate throughout."""
    return 1.0


def linear(at: Position) -> float:
    """Falls to zero in a straight line."""
    return 1.0 - at.done


def cosine(at: Position) -> float:
    """Falls to zero in half a period of the cosine (Loshchilov & Hutter 2017, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * at.done))


def polynomial(at: Position) -> float:
    """Falls to zero by a power of the share that is left."""
    return float((1.0 - at.done) ** (2.0 if at.spec.power is None else at.spec.power))


def inverse_sqrt(at: Position) -> float:
    """Falls with the square root of the step (Vaswani et al. 2017); it never reaches zero."""
    timescale = at.rising or TIMESCALE
    return 1.0 / math.sqrt((at.step - at.rising + timescale) / timescale)


def warmup_stable_decay(at: Position) -> float:
    """Constant, then falls to zero in a straight line (Hu et al. 2024)."""
    falling = min(_steps(at.spec.decay, at.total), at.total - at.rising)
    return max(0.0, min(1.0, (at.total - at.step) / max(1, falling)))


def one_cycle(at: Position) -> float:
    """Rises and falls by half periods of the cosine (Smith & Topin 2019); the peak is the last step of the rise."""
    peak, first = at.rising - 1, 1 / INITIAL_DIVISOR
    if at.step < peak:
        return _annealed(first, 1.0, at.step / peak)
    done = (at.step - peak) / max(1, at.total - 1 - peak)
    return _annealed(1.0, first / FINAL_DIVISOR, min(1.0, done))


def _annealed(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


SHAPES: dict[ScheduleName, Shape] = {
    ScheduleName.CONSTANT: constant,
    ScheduleName.LINEAR: linear,
    ScheduleName.COSINE: cosine,
    ScheduleName.POLYNOMIAL: polynomial,
    ScheduleName.INVERSE_SQRT: inverse_sqrt,
    ScheduleName.WARMUP_STABLE_DECAY: warmup_stable_decay,
    ScheduleName.ONE_CYCLE: one_cycle,
    ScheduleName.PLATEAU: constant,
}


def _steps(spec: WarmupSpec | None, total_steps: int) -> int:
    if spec is None:
        return 0
    return spec.steps if spec.steps is not None else math.ceil((spec.ratio or 0.0) * total_steps)


def warmup_steps(spec: ScheduleSpec, total_steps: int) -> int:
    """Steps over which the rate rises to its peak."""
    return _steps(spec.warmup, total_steps)


def factor(spec: ScheduleSpec, step: int, total_steps: int, *, from_zero: bool = False) -> float:
    """Share of the peak learning rate for the optimizer step number `step`, counted from 0.

    With `from_zero` the warm-up is that of transformers, whose first step has rate 0: so checkpoints of trainers before
    this rule resume with the rates they were written with.
    """
    at = Position(step, warmup_steps(spec, total_steps), total_steps, spec)
    if step < at.rising and spec.name is not ScheduleName.ONE_CYCLE:
        return (step + (not from_zero)) / at.rising
    floor = spec.min_ratio or 0.0
    return floor + (1.0 - floor) * max(0.0, SHAPES[spec.name](at))


def why_too_short(spec: ScheduleSpec, total_steps: int) -> str | None:
    """Why a plan is too short for its schedule, as a sentence with the remedy; None if it is not."""
    rising = warmup_steps(spec, total_steps)
    highest = max(factor(spec, step, total_steps) for step in {0, min(rising, total_steps) - 1} if step >= 0)
    if highest < 1:
        return (
            f"the plan of {total_steps} steps is too short for training.schedule: with a warm-up of {rising} steps the"
            f" learning rate reaches {100 * highest:.3g} % of learningRate at most; set a shorter"
            " training.schedule.warmup, or train more steps"
        )
    decay = _steps(spec.decay, total_steps)
    if rising + decay > total_steps + 1:  # ratios are rounded up: one step more is no fault of the plan
        return (
            f"the plan of {total_steps} steps is too short for training.schedule: the decay of {decay} steps is cut to"
            f" {total_steps - rising}, as the warm-up takes {rising}; set a shorter warmup or decay"
        )
    return None
