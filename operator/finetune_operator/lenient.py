"""Reads what another version or a stranger wrote: what is understood stays, the rest is left out. Pure.

A status or report with one unknown field must not be lost as a whole: the attempts in a status are what keeps an
older operator from training again beside a newer one's Job.
"""

import copy
import math
from typing import Any, TypeVar

from pydantic import ValidationError

from finetune_api.base import ApiModel

_FAULTS = 50

M = TypeVar("M", bound=ApiModel)


def read(model: type[M], raw: Any) -> tuple[M, list[str]]:
    """The value, and the places that were left out. With too many faults, or none of it readable: an empty value."""
    value = copy.deepcopy(_finite(raw)) if isinstance(raw, dict) else None
    left_out: list[str] = []
    while value is not None and len(left_out) < _FAULTS:
        try:
            return model.from_json(value), left_out
        except ValidationError as error:
            place = _remove(value, error.errors()[0]["loc"])
            if not place:
                break
            left_out.append(place)
    return model(), left_out or ["everything"]


def _remove(value: dict[str, Any], loc: tuple[int | str, ...]) -> str:
    """Remove the deepest part of `value` on the way to `loc`; its place, empty where that is the whole value."""
    holder: Any = None
    found: Any = value
    way: list[int | str] = []
    for step in loc:
        if not _has(found, step):
            break
        holder, found = found, found[step]
        way.append(step)
    if holder is None:
        return ""
    del holder[way[-1]]
    return ".".join(map(str, way))


def _has(value: Any, step: int | str) -> bool:
    if isinstance(value, dict):
        return step in value
    return isinstance(value, list) and isinstance(step, int) and step < len(value)


def _finite(value: Any) -> Any:
    """Without the numbers that JSON cannot say; null is absent in the wire form."""
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
