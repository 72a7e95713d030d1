"""How this process reads JSON, Kopf and aiohttp included: several times faster, and without an end at deep objects.

A tenant may nest `metadata.managedFields`, which the API server keeps, ten thousand levels deep. Python's parser raises
RecursionError there, which would end every LIST and watch of the kind, for all tenants. What is nested more deeply than
anything the operator reads becomes null.
"""

import json
import re
from typing import Any

from pydantic_core import from_json

_DEEPEST = 100
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]')
"""Strings, whose brackets do not count, and brackets."""


class _Decoder(json.JSONDecoder):
    """Pydantic's parser, which refuses 200 levels; what it refuses is read by Python's, which has better messages."""

    def decode(self, s: str, *given: Any) -> Any:
        """The value. Raises JSONDecodeError."""
        try:
            return from_json(s, cache_strings="none")
        except ValueError as error:
            text = _cut(s) if "recursion limit" in str(error) else s
        return super().decode(text, *given)


def _cut(text: str) -> str:
    """The JSON with null in place of what is nested too deeply."""
    kept, depth, begin = list[str](), 0, 0
    for token in _TOKENS.finditer(text):
        if token[0] in ("{", "["):
            depth += 1
            if depth == _DEEPEST + 1:
                kept += [text[begin : token.start()], "null"]
        elif token[0] in ("}", "]"):
            if depth == _DEEPEST + 1:
                begin = token.end()
            depth -= 1
    return "".join([*kept, text[begin:]])


def install() -> None:
    """Make json.loads read so: Kopf and aiohttp call it, and take no other."""
    json._default_decoder = _Decoder()  # type: ignore[attr-defined]
