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
    hint = (
        _preferences(name, fields)
        or _layout(name, fields)
        or (asks and _question(names))
        or _meant(name, names)
        or _no_header(names)
    )
    return f"is missing; available columns: {', '.join(map(repr, names[:20])) or 'none'}{hint}"


def _preferences(name: str, fields: Mapping[str, Any]) -> str:
    """The remedy where the columns are those of preferences, or of answers with a label."""
    conversation = _conversation(fields)
    if {"chosen", "rejected"} <= fields.keys():
        if name in ("text", "completion"):
            return "; to learn from chosen and rejected, set objective.preference: {loss: DPO}"
        if name == "prompt" and conversation:
            return (
                f"; {conversation} is not read: write its messages as prompt, and the answers, each with role and"
                " content, as chosen and rejected"
            )
        if name == "prompt" and not {*_ASKED} & fields.keys():
            return "; write what both answers begin with as prompt, or write them as lists of messages"
    if name == "chosen" and {"completion", "label"} <= fields.keys():
        return "; to learn from single answers with a label, set objective.preference: {loss: KTO}"
    if name == "prompt" and conversation and "label" in fields:
        return f"; for whole conversations with a label, set dataset.columns.completion: {conversation}"
    return ""


def _conversation(fields: Mapping[str, Any]) -> str | None:
    """The column with a list of messages, of the form Messages or ShareGPT."""
    keys = {
        name: value[0].keys()
        for name, value in fields.items()
        if isinstance(value, list) and value and isinstance(value[0], dict)
    }
    forms = ({"role", "content"}, {"from", "value"})
    return next((name for name, found in keys.items() if any(form <= found for form in forms)), None)


def _layout(name: str, fields: Mapping[str, Any]) -> str:
    """The remedy where the columns show how the file was written."""
    conversation = _conversation(fields)
    if name == "text" and conversation and conversation not in ("messages", "conversations"):
        return f"; to read it as messages, set dataset.columns.messages: {conversation}"
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
