"""JSON in which what is equal is one object, also of different FineTuneJobs: most specs and statuses are much alike.

Whoever holds a part must not change it.
"""

from sys import intern
from typing import Any

from cachetools import LRUCache
from pydantic_core import to_json

_LONGEST_WORD, _LONGEST_PART = 64, 2048
_PARTS = 2_000
"""Objects and lists that are remembered, as they were last met."""


class Sharing:
    """Short strings for as long as anybody has them, and the objects and lists that were met last."""

    def __init__(self) -> None:
        self._parts: LRUCache[bytes, Any] = LRUCache(_PARTS)

    def shared(self, value: Any) -> Any:
        """The same JSON."""
        if isinstance(value, str):
            return intern(value) if len(value) <= _LONGEST_WORD else value
        if isinstance(value, dict):
            return {intern(name): self._part(one) for name, one in value.items()}
        return [self._part(one) for one in value] if isinstance(value, list) else value

    def _part(self, value: Any) -> Any:
        if not isinstance(value, dict | list) or len(text := to_json(value)) > _LONGEST_PART:
            return self.shared(value)
        known = self._parts.get(text)
        if known is None:
            self._parts[text] = known = self.shared(value)
        return known
