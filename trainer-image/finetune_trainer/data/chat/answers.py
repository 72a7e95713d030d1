"""Answers to a prompt that are lists of messages, in the forms that data sets have. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from finetune_trainer.data.chat.conversation import (
    Clean,
    Conversation,
    ToolsError,
    conversation,
    from_json,
    named,
)
from finetune_trainer.data.chat.forms import ColumnError, are_messages

MESSAGES = "a list of messages"
TOOLS = "tools"
"""A column that a row may have."""


class AnswerColumns(NamedTuple):
    """Their names."""

    prompt: str
    answers: tuple[str, ...]
    """Of the chosen and the rejected one, or of a single one."""


def are_answer(value: Any) -> bool:
    """Whether it is a list of messages, or the one of it."""
    return are_messages(_listed(value))


def answers(fields: Mapping[str, Any], columns: AnswerColumns, clean: Clean) -> tuple[Conversation, ...]:
    """The prompt with each of its answers, which is the last message. Raises ColumnError.

    The prompt is in the column of that name, as messages or as a text, or stands before each answer, or both.
    """
    prompt, tools = _asked(fields, columns.prompt)
    found = tuple(_whole(prompt, tools, fields, column, clean) for column in columns.answers)
    if len(found) == 2:
        _check_pair(*found, *columns.answers)
    return found


def _check_pair(chosen: Conversation, rejected: Conversation, one: str, other: str) -> None:
    """Raise ColumnError for answers to different prompts, and for equal ones."""
    before, others = chosen.messages[:-1], rejected.messages[:-1]
    if before != others:
        place = next(
            (n for n, (this, that) in enumerate(zip(before, others, strict=False)) if this != that),
            min(len(before), len(others)),
        )
        reason = f"differs from {one} in {named(place)}; both answers must follow the same messages"
        raise ColumnError(other, f"{reason}, and only the last message may differ")
    if chosen.identity == rejected.identity:
        raise ColumnError(
            other, "has the same text as the chosen answer, so nothing is preferred; remove the row"
        )


def _asked(fields: Mapping[str, Any], column: str) -> tuple[Any, Any]:
    """The prompt and the tools; OpenAI's prompt is an object with both. Raises ColumnError."""
    value = fields.get(column)
    try:
        if isinstance(value, dict) and "messages" in value:
            return from_json(value["messages"], MESSAGES), value.get(TOOLS)
        return from_json(value, MESSAGES) if are_messages(value) else _listed(value), fields.get(TOOLS)
    except ValueError as error:
        raise ColumnError(column, str(error)) from None


def _listed(value: Any) -> Any:
    """A list of the message, where it is one."""
    return [value] if isinstance(value, dict) and "role" in value else value


def _whole(prompt: Any, tools: Any, fields: Mapping[str, Any], column: str, clean: Clean) -> Conversation:
    """An answer behind its prompt."""
    answer = _listed(fields[column])
    if not are_messages(answer):
        reason = "is no list of messages, which the other rows or the other answer have; write all rows alike"
        raise ColumnError(column, reason)
    try:
        messages = from_json(answer, MESSAGES)
        found = conversation([*_before(prompt, messages), *messages], tools, clean)
    except ToolsError as error:
        raise ColumnError(TOOLS, str(error)) from None
    except ValueError as error:
        raise ColumnError(column, str(error)) from None
    last, role = len(found.messages) - 1, found.messages[-1]["role"]
    if role != "assistant" or not found.trained[-1]:
        what = "is not of the assistant" if role != "assistant" else "has train: false"
        raise ColumnError(column, f"ends with {named(last, role)}, which {what}: it is to be the answer")
    if last == 0:
        raise ColumnError(column, "has an answer without a message before it; write the prompt")
    return found


def _before(prompt: Any, answer: list[Any]) -> list[Any]:
    """Messages of the prompt that the answer does not begin with itself. Raises ValueError."""
    if prompt is None or prompt == "" or prompt == []:
        return []
    given = prompt if are_messages(prompt) else [{"role": "user", "content": prompt}]
    if isinstance(prompt, str):
        asked = [
            each.get("content") for each in answer if isinstance(each, dict) and each.get("role") == "user"
        ]
        if prompt in asked:
            return []
    if answer[: len(given)] == given:
        return []
    if isinstance(answer[0], dict) and answer[0].get("role") in ("assistant", "tool"):
        return list(given)
    raise ValueError("begins with other messages than the prompt; give the prompt once, or the same twice")
