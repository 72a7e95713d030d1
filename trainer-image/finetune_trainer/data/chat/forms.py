"""The forms that conversations have in files, and which one a file has. Pure."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.dataset import ColumnsSpec, RowFormat
from finetune_trainer.data.chat.conversation import (
    FLAGS,
    SYSTEM_ROLES,
    Clean,
    Conversation,
    Json,
    ToolsError,
    conversation,
    from_json,
    meant_role,
    named,
    tool_call,
)
from finetune_trainer.data.records import RepeatedKeyError

MESSAGE_COLUMNS = ("messages", "conversations")
SYSTEM, HISTORY = "system", "history"
"""Columns beside the others; a row may lack them."""
_FROM = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
"""ShareGPT's names of the roles."""


class ColumnError(ValueError):
    """What is wrong with a column, as the end of a sentence."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column = column


@dataclass(frozen=True)
class ChatForm:
    """How the rows of a file are read as conversations."""

    kind: RowFormat
    required: tuple[str, ...]
    """Columns that every row has: of messages, of question and answer, of instruction and output."""
    optional: tuple[str, ...]
    """Columns that a row may have, the tools first."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All of them."""
        return self.required + self.optional

    @property
    def described(self) -> str:
        """The form and where it was found, for messages."""
        column = "column" if len(self.required) == 1 else "columns"
        return f"{self.kind.value} ({column} {', '.join(self.required)})"

    def read(self, fields: Mapping[str, Any], clean: Clean) -> Conversation:
        """The conversation of a row, which has the required columns. Raises ColumnError."""
        column = self.required[-1]
        try:
            messages = _READERS[self.kind](self, fields)
            return conversation(messages, fields.get(self.optional[0]), clean)
        except ColumnError:
            raise
        except ToolsError as error:
            raise ColumnError(self.optional[0], str(error)) from None
        except ValueError as error:
            raise ColumnError(column, str(error)) from None


def forms_of(
    columns: ColumnsSpec, there: Collection[str], rows: Sequence[Mapping[str, Any]]
) -> list[ChatForm]:
    """Those that the columns of a file allow; the first of its `rows` with messages tells Messages from ShareGPT."""
    found = []
    names = [columns.messages] if columns.messages else MESSAGE_COLUMNS
    for name in names:
        kind = next(filter(None, (_kind_of_messages(row.get(name)) for row in rows)), None)
        if name in there and kind:
            found.append(form_of(kind, columns, [name]))
    candidates = (RowFormat.PROMPT_COMPLETION, RowFormat.ALPACA)
    for form in (form_of(kind, columns, there) for kind in candidates):
        if set(form.required) <= set(there) and not columns.messages:
            found.append(form)
    return found


def form_asked(columns: ColumnsSpec, there: Collection[str]) -> ChatForm | None:
    """The form that the names of columns ask for, though its columns are not there or cannot be read."""
    if columns.messages or set(MESSAGE_COLUMNS) & set(there):
        return form_of(RowFormat.MESSAGES, columns, there)
    return form_of(RowFormat.PROMPT_COMPLETION, columns, there) if columns.completion else None


def form_of(kind: RowFormat, columns: ColumnsSpec, there: Collection[str]) -> ChatForm:
    """The form of this kind with the names of its columns."""
    tools = columns.tools or "tools"
    if kind is RowFormat.PROMPT_COMPLETION:
        required = (columns.prompt or "prompt", columns.completion or "completion")
        return ChatForm(kind, required, (tools, SYSTEM))
    if kind is RowFormat.ALPACA:
        return ChatForm(kind, ("instruction", "output"), (tools, SYSTEM, "input", HISTORY))
    names = MESSAGE_COLUMNS if kind is RowFormat.MESSAGES else tuple(reversed(MESSAGE_COLUMNS))
    name = columns.messages or next((each for each in names if each in there), names[0])
    return ChatForm(kind, (name,), (tools, SYSTEM))


def are_messages(value: Any) -> bool:
    """Whether it is a list of messages with roles, or such a list as JSON text."""
    return _kind_of_messages(value) is RowFormat.MESSAGES


def _kind_of_messages(value: Any) -> RowFormat | None:
    """By the first message; None for what is no list of messages."""
    listed = _glimpse(value)
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
        return None
    return RowFormat.SHAREGPT if "from" in listed[0] and "role" not in listed[0] else RowFormat.MESSAGES


def _glimpse(value: Any) -> Any:
    """What a JSON text holds, though it may repeat a key; other values, and other texts, as they are."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _messages(form: ChatForm, fields: Mapping[str, Any]) -> Any:
    (column,) = form.required
    return _with_system(form, fields, from_json(fields[column], "a list of messages"))


def _sharegpt(form: ChatForm, fields: Mapping[str, Any]) -> Any:
    (column,) = form.required
    listed = from_json(fields[column], "a list of messages")
    if not isinstance(listed, list):
        return listed
    return _with_system(form, fields, [_from_value(place, each) for place, each in enumerate(listed)])


def _from_value(place: int, given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    if "from" not in given and "role" in given:
        raise ValueError(f"has in {named(place)} role and content; set dataset.rows: Messages")
    name, beside = (
        given.get("from"),
        {key: each for key, each in given.items() if key not in ("from", "value")},
    )
    if not isinstance(name, str) or name not in _FROM:
        raise ValueError(f"has in {named(place)} from: {str(name)[:40]!r}; {meant_role(name, _FROM)}")
    value = given.get("value")
    if name != "function_call":
        return beside | {"role": _FROM[name], "content": value}
    where = named(place, name)
    try:
        calls = from_json(value, "a tool call")
    except ValueError as error:
        raise ValueError(f"has in {where} a value that {error}; write name and arguments as JSON") from None
    calls = calls if isinstance(calls, list) else [calls]
    whole = [tool_call(where, number, call) for number, call in enumerate(calls, start=1)]
    return beside | {"role": "assistant", "tool_calls": whole}


def _prompt_completion(form: ChatForm, fields: Mapping[str, Any]) -> Any:
    asked, answered = (
        _turns(column, fields[column], role)
        for column, role in zip(form.required, ("user", "assistant"), strict=True)
    )
    return _with_system(form, fields, [*map(_as_context, asked), *answered])


def _as_context(message: Json) -> Json:
    """A message of a prompt, whose answers are learned only where they say so."""
    said = message.get("role") != "assistant" or any(message.get(flag) is not None for flag in FLAGS)
    return message if said else message | {"train": False}


def _turns(column: str, value: Any, role: str) -> list[Any]:
    """A text as one message; a list of messages as it is, also where it is JSON text, which is all that CSV has."""
    try:
        value = _listed(value) or value
    except RepeatedKeyError as error:
        raise ColumnError(column, str(error)) from None
    if isinstance(value, str):
        if not value.strip():
            raise ColumnError(column, "is empty")
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ColumnError(column, "is neither a text nor a list of messages")
    if not value:
        raise ColumnError(column, "has no message")
    return value


def _listed(value: Any) -> list[Json] | None:
    """The messages that a JSON text holds; None for any other text. Raises RepeatedKeyError."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return None
    found = _glimpse(value)
    whole = isinstance(found, list) and all(isinstance(each, dict) and "role" in each for each in found)
    return from_json(value, "a list of messages") if whole else None


def _alpaca(form: ChatForm, fields: Mapping[str, Any]) -> Any:
    asked = "\n".join(filter(None, (_text(fields, name) for name in ("instruction", "input"))))
    before = list(_history(fields.get(HISTORY)))
    messages = [
        *before,
        {"role": "user", "content": asked},
        {"role": "assistant", "content": _text(fields, "output")},
    ]
    return _with_system(form, fields, messages)


def _text(fields: Mapping[str, Any], column: str) -> str:
    value = fields.get(column)
    if value is not None and not isinstance(value, str):
        raise ColumnError(column, f"is not a text but {type(value).__name__}")
    if not (value or "").strip() and column != "input":
        raise ColumnError(column, "is empty")
    return (value or "") if (value or "").strip() else ""


def _history(value: Any) -> Iterator[Json]:
    """Earlier pairs of question and answer."""
    try:
        listed = from_json(value, "a list of pairs") if value else []
    except ValueError as error:
        raise ColumnError(HISTORY, str(error)) from None
    if not isinstance(listed, list):
        raise ColumnError(HISTORY, "is not a list of pairs")
    for pair in listed:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(each, str) for each in pair):
            raise ColumnError(HISTORY, "is not a list of pairs of question and answer")
        yield {"role": "user", "content": pair[0]}
        yield {"role": "assistant", "content": pair[1]}


def _with_system(form: ChatForm, fields: Mapping[str, Any], messages: Any) -> Any:
    """The system message from a column of that name before the others."""
    system = fields.get(SYSTEM)
    if SYSTEM not in form.optional or system is None or not isinstance(messages, list):
        return messages
    if not isinstance(system, str):
        raise ColumnError(SYSTEM, f"is not a text but {type(system).__name__}")
    if not system.strip():
        return messages
    if messages and isinstance(messages[0], dict) and messages[0].get("role") in SYSTEM_ROLES:
        raise ColumnError(SYSTEM, "is set, and the messages begin with a system message too; remove one")
    return [{"role": "system", "content": system}, *messages]


_READERS: dict[RowFormat, Callable[[ChatForm, Mapping[str, Any]], Any]] = {
    RowFormat.MESSAGES: _messages,
    RowFormat.SHAREGPT: _sharegpt,
    RowFormat.PROMPT_COMPLETION: _prompt_completion,
    RowFormat.ALPACA: _alpaca,
}
