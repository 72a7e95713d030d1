"""How values, fields and times of a search are written. Pure."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def text_of(value: Any) -> str:
    """A value of a searched field as people read it: numbers in four digits, texts without quotes, the rest as JSON."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and not _is_json(value):
        return " ".join(value.split()) if value.strip() else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)


def _is_json(text: str) -> bool:
    """Whether a text without its quotes would read as another value."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def clipped(text: str, length: int) -> str:
    """At most this many characters; an ellipsis stands for the rest."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def shortened(text: str, length: int) -> str:
    """At most this many characters; an ellipsis stands for the middle, because values often differ at their end."""
    tail = length // 2
    return text if len(text) <= length else f"{text[: length - 1 - tail]}…{text[-tail:]}"


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """The paths without their first part (model, dataset, objective, training) where the rest names one field only."""
    rests = {path: path.partition(".")[2] or path for path in paths}
    shared = Counter(rests.values())
    return {path: rest if shared[rest] == 1 else path for path, rest in rests.items()}
