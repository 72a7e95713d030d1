"""Cleans texts as `dataset.preprocessing` says: pure functions of one string, composed in the documented order."""

import re
import unicodedata
from collections.abc import Callable
from typing import Any

from finetune_api.dataset import PreprocessingSpec, Unicode
from finetune_trainer.data.markup import strip_markup

Clean = Callable[[str], str]


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
