"""How operator and CLI read JSON: faster than Python's parser, and safe from what tenants nest.

Any user may write `metadata.managedFields` ten thousand levels deep, for which Python's parser raises RecursionError,
or half a million values into one object, so that a page of such objects needs a gigabyte. Either would end the
operator, for all tenants, and again at each start, and every command that lists the jobs of all namespaces. What is
nested more deeply than anything that is read here, and what is over an object's share of values, becomes a text that
says so, which no field accepts.
"""

import json
import re
from collections import deque
from typing import Any

from pydantic_core import from_json

_DEEPEST = 100
_LARGE = 512 * 1024
"""Characters from which values are counted: of an object, or of a page of them."""
_MOST_VALUES = 20_000
"""Of an object; the largest that anybody wrote for a purpose have a tenth of that."""
_TOO_DEEP = "dropped: nested too deeply"
_TOO_MANY = "dropped: the object has too many values"
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]')
"""Strings, whose brackets do not count, and brackets."""
_LIST = re.compile(
    r'\{"kind":"\w+List","apiVersion":"[^"]*","metadata":\{[^{}]*\},"items":\[|\{"apiVersion":"[^"]*","items":\['
)
"""How the API server begins a LIST."""


class _Decoder(json.JSONDecoder):
    """Pydantic's parser, which refuses 200 levels; what it refuses is read by Python's, which has better messages."""

    def decode(self, s: str, *given: Any) -> Any:
        """The value. Raises JSONDecodeError."""
        if len(s) > _LARGE:
            return self._large(s)
        try:
            return from_json(s, cache_strings="none")
        except ValueError as error:
            text = _cut(s) if "recursion limit" in str(error) else s
        return super().decode(text, *given)

    def _large(self, text: str) -> Any:
        try:
            begins = _LIST.match(text)
            return self._page(text, begins.end()) if begins else _limited(super().decode(text))
        except RecursionError:
            return self._large(_cut(text))

    def _page(self, text: str, begin: int) -> Any:
        """A LIST, whose objects begin there, and are limited one after the other."""
        items, end = list[Any](), begin
        while text[end : end + 1] != "]":
            one, end = self.raw_decode(text, end + (text[end : end + 1] == ","))
            items.append(_limited(one))
        return super().decode(text[:begin] + text[end:]) | {"items": items}


def _cut(text: str) -> str:
    """The JSON without what is nested too deeply."""
    kept, depth, begin = list[str](), 0, 0
    for token in _TOKENS.finditer(text):
        if token[0] in ("{", "["):
            depth += 1
            if depth == _DEEPEST + 1:
                kept += [text[begin : token.start()], f'"{_TOO_DEEP}"']
        elif token[0] in ("}", "]"):
            if depth == _DEEPEST + 1:
                begin = token.end()
            depth -= 1
    return "".join([*kept, text[begin:]])


def _limited(value: Any) -> Any:
    """The same without `managedFields`, and without what is over the limits: of many values the deepest go first."""
    left, waiting = _MOST_VALUES, deque([(value, 1)] if isinstance(value, dict | list) else [])
    while waiting:
        holder, depth = waiting.popleft()
        if isinstance(holder, dict):
            holder.pop("managedFields", None)
        for key, inner in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(inner, dict | list):
                left -= len(inner)
                if depth == _DEEPEST or left < 0:
                    holder[key] = _TOO_DEEP if depth == _DEEPEST else _TOO_MANY
                else:
                    waiting.append((inner, depth + 1))
    return value


_DECODER = _Decoder()


def loads(text: str | bytes) -> Any:
    """The value of JSON, in UTF-8 where it is bytes. Raises ValueError."""
    return _DECODER.decode(text.decode() if isinstance(text, bytes) else text)


def install() -> None:
    """Make json.loads of this process read so: Kopf and aiohttp call it, and take no other."""
    json._default_decoder = _DECODER  # type: ignore[attr-defined]
