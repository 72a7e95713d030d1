"""What is wrong where a column is not there, and which one may be meant. Pure."""

import string
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from finetune_trainer.objectives.lookalikes import INVISIBLE

RECORDS = "write it with orient='records', lines=True"
UNSEEN = string.whitespace + "\u00a0\u2028\u2029\u3000" + INVISIBLE
LONGEST_NAME = 40
_ASKED = ("prompt", "question", "query", "instruction", "input", "user")
_ANSWERED = ("completion", "response", "answer", "output", "reply", "assistant")
_SAME = (
    _ASKED,
    _ANSWERED,
    ("chosen", "preferred", "preferred_output", "accepted", "chosen_response"),
    ("rejected", "dispreferred", "non_preferred_output", "refused", "rejected_response"),
    ("text", "sentence", "review", "content", "document"),
    ("label", "labels", "class", "target", "category", "sentiment", "score"),
)
"""Names that data sets have for the same column."""


def missing_column(name: str, fields: Mapping[str, Any], *, asks: bool = False) -> str:
    """The reason of an error: the column that is not there, those that are, and the one that may be meant.

    `asks` says that rows may also be questions with answers.
    """
    names = [str(field) for field in fields]
    hint = _layout(fields) or (asks and _question(names)) or _meant(name, names) or _no_header(names)
    return f"is missing; available columns: {', '.join(map(repr, names[:20])) or 'none'}{hint}"


def _layout(fields: Mapping[str, Any]) -> str:
    """The remedy where the columns show how the file was written."""
    if "messages" in fields or "conversations" in fields:
        return "; conversations are read for objective.causalLM, with dataset.rows: Messages or ShareGPT"
    if "data" in fields and ("columns" in fields or "schema" in fields):
        return f"; this is pandas' to_json() with another orient: {RECORDS}"
    if any(isinstance(value, list) and value and isinstance(value[0], dict) for value in fields.values()):
        return "; the rows seem to be nested in a column: write one JSON object per line"
    return ""


def _question(names: list[str]) -> str:
    """The remedy where two of the columns are a question and its answer."""
    prompt, answer = (next((each for each in same if each in names), None) for same in (_ASKED, _ANSWERED))
    if prompt is None or answer is None:
        return ""
    others = [repr(each) for each in names if each not in (prompt, answer)]
    unread = f"; {', '.join(others)} would not be read" if others else ""
    return (
        f"; for questions and answers set dataset.rows: PromptCompletion and dataset.columns: {{prompt: {prompt},"
        f" completion: {answer}}}{unread}"
    )


def _no_header(names: list[str]) -> str:
    """The remedy where the names look like the values of a row."""
    values = any(name.strip().isdigit() or len(name) > LONGEST_NAME or name.count(" ") > 3 for name in names)
    return "; the first line of a CSV file must name its columns: add text,label or alike" if values else ""


def _meant(name: str, names: list[str]) -> str:
    """The nearest name, or one that others use for it."""
    known = {field.strip(UNSEEN).casefold(): field for field in names}
    near = get_close_matches(name.strip().casefold(), known, n=1, cutoff=0.75)
    same = [each for group in _SAME if name in group for each in group if each in known]
    found = [*near, *same]
    return f"; did you mean {known[found[0]]!r}? Columns are named in dataset.columns" if found else ""
