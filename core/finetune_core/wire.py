"""Reads parts of untrusted objects: a part that is missing or has another type is None. Pure."""

import math
from datetime import datetime
from typing import Any


def at(value: Any, *keys: str) -> Any:
    """The value under nested keys; None if a key is missing or has another type."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def text(value: Any, *keys: str) -> str | None:
    """The text under nested keys; None for an empty one."""
    found = at(value, *keys)
    return found if isinstance(found, str) and found else None


def number(value: Any, *keys: str) -> float | None:
    """The finite number under nested keys."""
    found = at(value, *keys)
    finite = isinstance(found, (int, float)) and not isinstance(found, bool) and math.isfinite(found)
    return float(found) if finite else None


def items(value: Any, *keys: str) -> list[Any]:
    """The list under nested keys; empty if there is none."""
    found = at(value, *keys)
    return found if isinstance(found, list) else []


def time_of(value: Any) -> datetime | None:
    """An RFC 3339 time, None for anything else."""
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo else None
