"""Places in a rendered conversation, marked by noncharacters that no text may have. Pure.

A template writes `{% generation %}` blocks between two of them; control tokens in the text of a message stand between
two others, so that they are known from those that the template writes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.chat.conversation import RESERVED

LEARNED, LEARNED_END, PLAIN, PLAIN_END = RESERVED
_ANY = re.compile(f"[{''.join(RESERVED)}]")
Span = tuple[int, int]


@dataclass(frozen=True)
class Marked:
    """A text without its marks, and where they were."""

    text: str
    learned: tuple[Span, ...]
    """What stood in generation blocks."""
    plain: tuple[Span, ...]
    """Control tokens of messages."""


def unmarked(text: str) -> str:
    """The text alone."""
    return _ANY.sub("", text)


def read_marks(text: str) -> Marked:
    """Take the marks out. Raises ValueError where a template tore a pair of them apart."""
    pieces, end, here = list[str](), 0, 0
    open_at: dict[str, int] = {}
    spans: dict[str, list[Span]] = {LEARNED_END: [], PLAIN_END: []}
    for found in _ANY.finditer(text):
        place, mark = found.start(), found.group()
        pieces.append(text[end:place])
        here, end = here + place - end, place + 1
        if mark in (LEARNED, PLAIN):
            torn = mark in open_at
            open_at[mark] = here
        else:
            opening = LEARNED if mark == LEARNED_END else PLAIN
            torn = opening not in open_at
            if not torn:
                spans[mark].append((open_at.pop(opening), here))
        if torn:
            raise ValueError("cuts a marked part of a message in two")
    if open_at:
        raise ValueError("cuts a marked part of a message in two")
    pieces.append(text[end:])
    return Marked("".join(pieces), tuple(spans[LEARNED_END]), tuple(spans[PLAIN_END]))


def with_plain(value: Any, tokens: re.Pattern[str] | None) -> Any:
    """The value with every control token in its texts marked; keys and roles stay."""
    if tokens is None:
        return value
    if isinstance(value, str):
        return tokens.sub(f"{PLAIN}\\g<0>{PLAIN_END}", value)
    if isinstance(value, dict):
        return {key: each if key == "role" else with_plain(each, tokens) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [with_plain(each, tokens) for each in value]
    return value


def any_of(tokens: Sequence[str]) -> re.Pattern[str] | None:
    """Matches each of the tokens, longer ones first."""
    whole = sorted(filter(None, tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, whole))) if whole else None
