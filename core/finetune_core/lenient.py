"""Parses what another version or a third party wrote: keeps valid parts and drops the rest. Pure.

One unknown field must not lose a whole status or report: the attempts in a status prevent an older operator from
starting a second Job next to a newer operator's Job.
"""

import math
from typing import Any, TypeVar

from pydantic import ValidationError

from finetune_api.base import AS_STORED, ApiModel

_FAULTS = 50

M = TypeVar("M", bound=ApiModel)


def read(model: type[M], raw: Any) -> tuple[M, list[str]]:
    """The value, and the places that were dropped. With too many errors, or nothing valid: an empty value."""
    value = _finite(raw) if isinstance(raw, dict) else None
    left_out: list[str] = []
    while value is not None and len(left_out) < _FAULTS:
        try:
            return model.from_json(value, context=AS_STORED), left_out
        except ValidationError as error:
            place = _remove(value, error.errors()[0]["loc"])
            if not place:
                break
            left_out.append(place)
    return model(), left_out or ["everything"]


def _remove(value: dict[str, Any], loc: tuple[int | str, ...]) -> str:
    """Remove the deepest part of `value` along the path `loc`; returns its place, empty for the whole value."""
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
    """A copy without NaN and infinity, which JSON cannot represent; null is absent in the wire form."""
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
