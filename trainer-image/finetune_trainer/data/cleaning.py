"""Cleans texts as `dataset.preprocessing` says: pure functions of one string, composed in the documented order."""

import re
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

from finetune_api.dataset import PreprocessingSpec, Unicode

Clean = Callable[[str], str]
_BLOCK_TAGS = """
address article blockquote br dd div dl dt footer h1 h2 h3 h4 h5 h6 header hr li ol p pre section table td th tr ul
"""
BLOCKS = frozenset(_BLOCK_TAGS.split())
HIDDEN = frozenset({"script", "style", "template"})


def cleaner(spec: PreprocessingSpec, *, joined: bool = False) -> Clean:
    """The function that prepares every text: Unicode, markup, white space, case.

    Of texts that are `joined` without anything between them the space at the ends matters.
    """
    steps: list[Clean] = []
    if spec.unicode is not Unicode.NONE:
        form: Any = spec.unicode.value
        steps.append(lambda text: unicodedata.normalize(form, text))
    if spec.strip_markup:
        steps.append(strip_markup)
    if spec.collapse_whitespace:
        steps.append(collapse_runs if joined else collapse_whitespace)
    if spec.lowercase:
        steps.append(str.lower)
    return lambda text: _apply(steps, text)


def _apply(steps: list[Clean], text: str) -> str:
    for step in steps:
        text = step(text)
    return text


def collapse_whitespace(text: str) -> str:
    """Runs of white space become one space; none stays at the ends."""
    return " ".join(text.split())


def collapse_runs(text: str) -> str:
    """Runs of white space become one space, those at the ends too; of white space alone nothing stays."""
    return re.sub(r"\s+", " ", text) if text.strip() else ""


def strip_markup(text: str) -> str:
    """The text of an HTML fragment: tags removed, entities resolved, blocks apart, scripts and styles dropped.

    A '<' that opens no tag, as in 'a < b', stays.
    """
    if not re.search(r"[<&]", text):
        return text
    parser = _TextOf()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)


class _TextOf(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in HIDDEN
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in HIDDEN))
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)

    def _break(self, tag: str) -> None:
        if tag in BLOCKS and self.parts and not self.parts[-1].endswith(("\n", " ")):
            self.parts.append("\n")
