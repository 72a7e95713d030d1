"""The axes of parallel coordinates: where on an axis from 0 to 1 every value lies, and its ticks. Pure."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.summary.values import is_number, shortened, text_of

ABSENT = object()
"""Stands for the value of a field that does not apply."""
_FEW = 8
"""Different numbers up to which each is a tick."""
_APART = 0.07
"""Smallest distance of two ticks."""
_LONGEST_TICK = 24


@dataclass(frozen=True)
class Axis:
    """`places` has one entry a trial: from 0 to 1, None where the field does not apply."""

    places: list[float | None]
    ticks: list[tuple[float, str]]


def axis_of(values: Sequence[Any], *, logarithmic: bool) -> Axis:
    """The axis of a searched field: of numbers, or of categories where any value is not a number."""
    present = [value for value in values if value is not ABSENT]
    if present and all(map(is_number, present)):
        return _numbers(values, logarithmic=logarithmic and min(present) > 0)
    return _categories(values)


def number_axis(values: Sequence[float], limits: tuple[float, float]) -> Axis:
    """An axis of numbers between limits; values beyond lie at its ends."""
    low, high = limits
    return Axis(
        [_place(min(max(value, low), high), low, high) for value in values], _ticks(values, low, high)
    )


def _numbers(values: Sequence[Any], *, logarithmic: bool) -> Axis:
    scaled = [None if v is ABSENT else math.log10(v) if logarithmic else float(v) for v in values]
    present = [value for value in scaled if value is not None]
    low, high = min(present), max(present)
    places = [None if value is None else _place(value, low, high) for value in scaled]
    return Axis(places, _ticks(present, low, high, logarithmic=logarithmic))


def _place(value: float, low: float, high: float) -> float:
    return 0.5 if low == high else (value - low) / (high - low)


def _ticks(
    values: Sequence[float], low: float, high: float, *, logarithmic: bool = False
) -> list[tuple[float, str]]:
    """Both ends, then the values if they are few, else round numbers, as far as there is room."""
    from matplotlib.ticker import MaxNLocator

    distinct = sorted(set(values))
    if len(distinct) <= _FEW:
        inner = distinct
    elif logarithmic:
        inner = [float(power) for power in range(math.ceil(low), math.floor(high) + 1)]
    else:
        inner = [float(tick) for tick in MaxNLocator(5).tick_values(low, high)]
    kept = [low] if low == high else [low, high]
    span = high - low
    for tick in inner:
        if low < tick < high and all(abs(tick - other) >= _APART * span for other in kept):
            kept.append(tick)
    return [(_place(tick, low, high), _number(10**tick if logarithmic else tick)) for tick in sorted(kept)]


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e5 else f"{value:.3g}".replace("e+0", "e")


def _categories(values: Sequence[Any]) -> Axis:
    """Evenly spaced, in the order of the list of choices as far as the trials show it: sorted by their texts."""
    keys = [None if value is ABSENT else json.dumps(value, sort_keys=True) for value in values]
    texts = {key: text_of(value) for key, value in zip(keys, values, strict=True) if key is not None}
    ordered = sorted(texts, key=lambda key: (texts[key], key))
    places = {key: _place(number, 0, len(ordered) - 1) for number, key in enumerate(ordered)}
    every = math.ceil(len(ordered) * _APART) or 1
    ticks = [(places[key], shortened(texts[key], _LONGEST_TICK)) for key in ordered[::every]]
    return Axis([None if key is None else places[key] for key in keys], ticks)
