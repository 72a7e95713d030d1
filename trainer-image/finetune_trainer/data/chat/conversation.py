"""Messages of a conversation, checked and in the one form that chat templates take. Pure.

Every ValueError is the end of a sentence, and names the message by its number from 1.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from finetune_trainer.data.missing import UNSEEN

Json = dict[str, Any]
Clean = Callable[[str], str]

ROLES = ("system", "user", "assistant", "tool")
_MEANT = {
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
}
"""Roles of other formats, and what they are here."""
RESERVED = ("\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3")
"""Noncharacters of Unicode that mark places in a rendered conversation; no text may have them."""
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's thoughts; templates read the first, some the second."""
FLAGS = ("train", "weight", "loss", "training")
"""Whether a message is learned, by the names that formats have for it: ours, OpenAI's, ms-swift's and axolotl's."""
MEDIA = ("images", "image", "videos", "video", "audios", "audio")
"""Of messages and of rows, what is no text."""
_IN_PARTS = ("train_detail", "training_detail")
"""Axolotl's names of what is learned inside a message, which is all or nothing here."""


class ToolsError(ValueError):
    """What is wrong with the tools."""


@dataclass(frozen=True)
class Conversation:
    """What a chat template writes as one text."""

    messages: tuple[Json, ...]
    trained: tuple[bool, ...]
    """Of every message, whether it may be learned: all but those with train: false."""
    tools: tuple[Json, ...] | None = None
    unasked: frozenset[int] = frozenset()
    """Places of the assistant's messages that nobody asks for, but for those with train: true: a greeting."""

    @cached_property
    def text(self) -> str:
        """What is said, for people and to find duplicates: a line for each message."""
        return "\n".join(f"{message['role']}: {_said(message)}" for message in self.messages)

    @cached_property
    def identity(self) -> str:
        """Two conversations with the same one are the same to a model."""
        learned = [trained and place not in self.unasked for place, trained in enumerate(self.trained)]
        return json.dumps([self.messages, learned, self.tools], ensure_ascii=False, sort_keys=True)

    @cached_property
    def assistants(self) -> tuple[int, ...]:
        """Places of the assistant's messages."""
        return tuple(place for place, each in enumerate(self.messages) if each["role"] == "assistant")

    @cached_property
    def to_last_answer(self) -> "Conversation":
        """Without the messages behind the last one of the assistant; itself where there is none."""
        count = self.assistants[-1] + 1 if self.assistants else len(self.messages)
        if count == len(self.messages):
            return self
        return replace(self, messages=self.messages[:count], trained=self.trained[:count])


def named(place: int, role: object = "") -> str:
    """A message in a sentence."""
    return f"message {place + 1}" + (f" ({role})" if role else "")


def conversation(messages: Any, tools: Any = None, clean: Clean = str) -> Conversation:
    """Check the messages as they stand in a file, which may be JSON text. Raises ValueError."""
    listed = from_json(messages, "a list of messages")
    if not isinstance(listed, list):
        raise ValueError(f"is not a list of messages but {_shown(listed)}")
    if not listed:
        raise ValueError("has no message")
    found = [_message(place, each, clean) for place, each in enumerate(listed)]
    whole = tuple(message for message, _ in found)
    _check_order(whole)
    schemas = _tools(tools)
    _check_called(whole, schemas)
    trained = tuple(flag is not False for _, flag in found)
    return Conversation(whole, trained, schemas, _unasked(found))


def _unasked(found: Sequence[tuple[Json, bool | None]]) -> frozenset[int]:
    """The assistant's messages before the first user message, or before any where there is a system message alone."""
    roles = [message["role"] for message, _ in found]
    asked = "user" if "user" in roles else "system"
    first = roles.index(asked) if asked in roles else len(roles)
    return frozenset(
        place for place in range(first) if roles[place] == "assistant" and found[place][1] is None
    )


def from_json(value: Any, what: str) -> Any:
    """What a JSON text holds; other values as they are. Raises ValueError for a text that is no JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError(f"is not {what} but the text {value[:40]!r}") from None


def _message(place: int, given: Any, clean: Clean) -> tuple[Json, bool | None]:
    """The message without its flags, and what they say."""
    if not isinstance(given, dict):
        raise ValueError(f"has in {named(place)} no object but {_shown(given)}; write role and content")
    message = {key: value for key, value in given.items() if value is not None}
    role = _role(place, message)
    trained = _trained(place, role, message)
    where = named(place, role)
    _check_readable(where, message)
    if "content" in message:
        message["content"] = clean(_content(where, message["content"]))
    if "tool_calls" in message:
        message["tool_calls"] = _calls(where, role, message["tool_calls"])
        if not message["tool_calls"]:
            del message["tool_calls"]
    if "tool_calls" in message:
        message.setdefault("content", "")  # templates read it, and null would be written as a word
    _alias_reasoning(where, message)
    if "content" not in message and role in ("system", "tool"):
        raise ValueError(f"has in {where} no content")
    if role in ("user", "assistant") and not _says_something(message):
        raise ValueError(f"has an empty {where}; remove it, or write its content")
    _check_reserved(where, message)
    return message, trained


def _check_readable(where: str, message: Json) -> None:
    """Raise ValueError for what says something that no template reads."""
    if "function_call" in message:
        raise ValueError(f"has in {where} function_call, an old form; write tool_calls")
    if media := next((name for name in MEDIA if message.get(name)), None):
        raise ValueError(f"has in {where} {media}, and only texts are learned; remove the row")


def _role(place: int, message: Json) -> str:
    role = message.get("role")
    if role is None and {"from", "value"} <= message.keys():
        raise ValueError(f"has in {named(place)} from and value; set dataset.rows: ShareGPT")
    if role is None:
        raise ValueError(f"has no role in {named(place)}; write one of {', '.join(ROLES)}")
    if role not in ROLES:
        meant = _MEANT.get(str(role).lower(), str(role).lower())
        remedy = f"write {meant}" if meant in ROLES else f"write one of {', '.join(ROLES)}"
        raise ValueError(f"has in {named(place)} the role {str(role)[:40]!r}; {remedy}")
    return str(role)


def _trained(place: int, role: str, message: Json) -> bool | None:
    """Takes the flags out of the message, which templates do not know; None for none."""
    if part := next((name for name in _IN_PARTS if name in message), None):
        raise ValueError(
            f"has in {named(place, role)} {part}: a message is learned whole or not at all; split it, or write train:"
            " true or false"
        )
    flags = {name: message.pop(name) for name in FLAGS if name in message}
    for name, value in flags.items():
        if value not in (True, False, 0, 1) or isinstance(value, str):
            kinds = "0 or 1" if name == "weight" else "true or false"
            raise ValueError(f"has in {named(place, role)} {name}: {_shown(value)}; write {kinds}")
    if len(set(map(bool, flags.values()))) > 1:
        names = " and a ".join(flags)
        raise ValueError(f"has in {named(place, role)} a {names} that differ; remove one")
    return all(map(bool, flags.values())) if flags else None


def _content(where: str, content: Any) -> str:
    """The text; of a list of parts the texts joined, as long as all are texts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"has in {where} a content that is no text but {_shown(content)}")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            shown = repr(kind) if isinstance(kind, str) else _shown(part)
            raise ValueError(f"has in {where} a part of the content that is no text: {shown}")
        texts.append(part["text"])
    return "".join(texts)


def _calls(where: str, role: str, calls: Any) -> list[Json]:
    calls = from_json(calls, "a list of tool calls") if isinstance(calls, str) else calls
    if role != "assistant" and calls:
        raise ValueError(f"has tool_calls in {where}; only the assistant calls tools")
    if not isinstance(calls, list):
        raise ValueError(f"has in {where} tool_calls that are no list but {_shown(calls)}")
    return [tool_call(where, number, call) for number, call in enumerate(calls, start=1)]


def tool_call(where: str, number: int, call: Any) -> Json:
    """One call as templates take it, with its arguments as an object. Raises ValueError."""
    which = f"tool call {number}"
    if not isinstance(call, dict):
        raise ValueError(f"has in {where} as {which} no object but {_shown(call)}")
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise ValueError(f"has in {where} a {which} without the name of a function")
    arguments = function.get("arguments")
    try:
        arguments = {} if arguments in (None, "") else from_json(arguments, "an object")
    except ValueError as error:
        raise ValueError(f"has in {where}, {which}, arguments that are no JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"has in {where}, {which}, arguments that are no object but {_shown(arguments)}")
    beside = {"id": call["id"]} if call.get("id") is not None else {}
    return {"type": "function", **beside, "function": {"name": function["name"], "arguments": arguments}}


def _alias_reasoning(where: str, message: Json) -> None:
    """Thoughts under both names that templates read, as transformers gives them."""
    found = next((message[name] for name in REASONING if name in message), None)
    if found is None:
        return
    if not isinstance(found, str):
        raise ValueError(f"has in {where} a reasoning that is no text but {_shown(found)}")
    message.setdefault("thinking", found)
    message["reasoning_content"] = found


def _says_something(message: Json) -> bool:
    return bool(_said(message).strip(UNSEEN)) or bool(message.get("tool_calls"))


def _said(message: Json) -> str:
    calls = [
        f"{call['function']['name']}({json.dumps(call['function']['arguments'], ensure_ascii=False)})"
        for call in message.get("tool_calls", [])
    ]
    return " ".join(part for part in (message.get("content", ""), *calls) if part)


def _check_reserved(where: str, value: Any) -> None:
    written = json.dumps(value, ensure_ascii=False)
    for character in RESERVED:
        if character in written:
            raise ValueError(f"has in {where} U+{ord(character):04X}, which is no character; remove it")


def _check_order(messages: Sequence[Json]) -> None:
    """Roles in an order that a conversation can have. Raises ValueError."""
    calls = _OpenCalls()
    for place, message in enumerate(messages):
        role, before = message["role"], messages[place - 1]["role"] if place else None
        if role == "system" and place:
            raise ValueError(f"has a system message as {named(place)}; it must be the first")
        if role == before and role in ("user", "assistant"):
            raise ValueError(
                f"has a broken order: {named(place, role)} follows another {role} message; join them, or write what is"
                " between"
            )
        if role == "tool":
            calls.answer(place, message.get("tool_call_id"))
        else:
            calls.check_answered(place, role)
            calls.open(place, message.get("tool_calls", []))


class _OpenCalls:
    """Calls of the last assistant message that no result answers yet."""

    def __init__(self) -> None:
        self.open(0, [])

    def open(self, place: int, calls: Sequence[Json]) -> None:
        self._place, self._calls = place, calls
        self._ids = {str(call["id"]) for call in calls if "id" in call}
        self._without_id = sum("id" not in call for call in calls)
        self._results, self._by_id = 0, False

    def check_answered(self, place: int, role: str) -> None:
        """Raises ValueError for a call that a message follows and no result. A result without an id may be for all."""
        missing = [call for call in self._calls if not self._results or str(call.get("id")) in self._ids]
        if missing and (not self._results or self._by_id):
            raise ValueError(
                f"has a tool call without a result: {named(self._place, 'assistant')} calls"
                f" {missing[0]['function']['name']!r}, and {named(place, role)} follows; write the result between them,"
                " or remove the call"
            )

    def answer(self, place: int, call: Any) -> None:
        """Raises ValueError for a result without a call."""
        self._results += 1
        if call is not None and str(call) in self._ids:
            self._by_id = True
            self._ids.discard(str(call))
        elif self._without_id:
            self._without_id -= 1
        elif call is None and self._ids:
            self._ids.pop()
        else:
            answers = "no call" if call is None else f"{str(call)[:40]!r}, which no call has"
            raise ValueError(
                f"has a tool result without a call: {named(place, 'tool')} answers {answers}; write tool_calls in the"
                " assistant's message before it"
            )


def _check_called(messages: Sequence[Json], tools: Sequence[Json] | None) -> None:
    """Raise ValueError for a call of what is not among the tools of the row, where it has any."""
    known = {tool["function"]["name"] for tool in tools or ()}
    for place, message in enumerate(messages) if known else ():
        for call in message.get("tool_calls", ()):
            if call["function"]["name"] not in known:
                raise ValueError(
                    f"has in {named(place, 'assistant')} a call of {call['function']['name']!r}, which is not among the"
                    " tools of the row; add it to them, or remove the call"
                )


def _tools(value: Any) -> tuple[Json, ...] | None:
    """The tools' schemas as templates take them; None for none. Raises ToolsError."""
    try:
        listed = from_json(value, "a list of tools") if value else None
    except ValueError as error:
        raise ToolsError(str(error)) from None
    if not listed:
        return None
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ToolsError(f"has tools that are no list of objects but {_shown(listed)}")
    whole = []
    for number, tool in enumerate(listed, start=1):
        function = tool.get("function", tool)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ToolsError(f"has a tool {number} without a name; write it as a JSON schema of a function")
        whole.append({"type": "function", "function": function})
    _check_reserved("tools", whole)
    return tuple(whole)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:40]
