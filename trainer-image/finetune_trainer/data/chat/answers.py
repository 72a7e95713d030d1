"""Two answers to one prompt that are lists of messages, in the forms that data sets have. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from finetune_trainer.data.chat.conversation import Clean, Conversation, conversation, from_json, named
from finetune_trainer.data.chat.forms import ColumnError, are_messages

MESSAGES = "a list of messages"


class AnswerColumns(NamedTuple):
    """Their names."""

    prompt: str
    chosen: str
    rejected: str


def answers(
    fields: Mapping[str, Any], columns: AnswerColumns, clean: Clean
) -> tuple[Conversation, Conversation]:
    """The prompt with the chosen and with the rejected answer, each the last message. Raises ColumnError.

    The prompt is in the column of that name, as messages or as a text, or stands before both answers, or both.
    """
    prompt = fields.get(columns.prompt)
    chosen, rejected = (_whole(prompt, fields, column, clean) for column in columns[1:])
    before, others = chosen.messages[:-1], rejected.messages[:-1]
    if before != others:
        place = next(
            (n for n, (one, other) in enumerate(zip(before, others, strict=False)) if one != other),
            min(len(before), len(others)),
        )
        reason = (
            f"differs from {columns.chosen} in {named(place)}; both answers must follow the same messages"
        )
        raise ColumnError(columns.rejected, f"{reason}, and only the last message may differ")
    if chosen.identity == rejected.identity:
        reason = "has the same text as the chosen answer, so nothing is preferred; remove the row"
        raise ColumnError(columns.rejected, reason)
    return chosen, rejected


def _whole(prompt: Any, fields: Mapping[str, Any], column: str, clean: Clean) -> Conversation:
    """An answer behind its prompt."""
    if not are_messages(fields[column]):
        reason = "is no list of messages, which the other rows or the other answer have; write all rows alike"
        raise ColumnError(column, reason)
    try:
        found = conversation(
            [*_before(prompt, fields[column]), *from_json(fields[column], MESSAGES)], clean=clean
        )
    except ValueError as error:
        raise ColumnError(column, str(error)) from None
    last, role = len(found.messages) - 1, found.messages[-1]["role"]
    if role != "assistant" or not found.trained[-1]:
        what = "is not of the assistant" if role != "assistant" else "has train: false"
        raise ColumnError(column, f"ends with {named(last, role)}, which {what}: it is to be the answer")
    if last == 0:
        raise ColumnError(column, "has an answer without a message before it; write the prompt")
    return found


def _before(prompt: Any, answer: Any) -> list[Any]:
    """Messages of the prompt that the answer does not begin with itself. Raises ValueError."""
    if prompt is None or prompt == "" or prompt == []:
        return []
    messages = from_json(answer, MESSAGES)
    given = from_json(prompt, MESSAGES) if are_messages(prompt) else [{"role": "user", "content": prompt}]
    if isinstance(prompt, str) and not are_messages(prompt):
        asked = [
            each.get("content") for each in messages if isinstance(each, dict) and each.get("role") == "user"
        ]
        if prompt in asked:
            return []
    if messages[: len(given)] == given:
        return []
    if isinstance(messages[0], dict) and messages[0].get("role") in ("assistant", "tool"):
        return list(given)
    raise ValueError("begins with other messages than the prompt; give the prompt once, or the same twice")
