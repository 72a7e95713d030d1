"""Messages of a conversation, checked and in the one form that chat templates take. Pure.

Every ValueError is the end of a sentence, and names the message by its number from 1.
"""

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from finetune_trainer.data.missing import UNSEEN
from finetune_trainer.data.records import DECODER, RepeatedKeyError

Json = dict[str, Any]
Clean = Callable[[str], str]

ROLES = ("system", "user", "assistant", "tool")
DEVELOPER = "developer"
"""OpenAI's newer name of the system's role, which few templates know."""
SYSTEM_ROLES = ("system", DEVELOPER)
_MEANT = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "chatgpt": "assistant",
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
_OPPOSITE = "masked"
"""Torchtune's name of what is not learned."""
FLAGS = (
    "train",
    "weight",
    "loss",
    "training",
    "trainable",
    "loss_mask",
    "loss_weight",
    "step_loss_mask",
    _OPPOSITE,
)
"""Whether a message is learned, by the names that formats have for it: ours, OpenAI's, ms-swift's, axolotl's, Tinker's,
veRL's, LLaMA-Factory's, slime's and torchtune's."""
_NUMBERS = ("weight", "loss_mask", "loss_weight", "step_loss_mask")
"""Flags that are usually written as numbers."""
_ABOUT_LEARNING = ("exclud", "ignor", "learn", "loss", "mask", "skip", "supervis", "train", "weight")
"""Beginnings of words in the names of other keys that may say whether a message is learned."""
_ALWAYS_READ = ("role", "content", "tool_calls", "tool_call_id", *REASONING)
"""Keys of a message that are read here, or that say nothing without the others."""
MEDIA = ("images", "image", "videos", "video", "audios", "audio")
"""Of messages and of rows, what is no text."""
_TEXTS = ("text", "input_text", "output_text")
"""Types of parts that are texts; OpenAI's newer interface has the last two."""
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
    flagged: frozenset[int] = frozenset()
    """Places of the messages with train: true."""

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
    def beside(self) -> frozenset[str]:
        """Keys of the messages that only some chat templates write: of role, what is said by a developer.

        A tool's result has its name by the call.
        """
        return frozenset(
            key
            for message in self.messages
            for key, value in message.items()
            if (value == DEVELOPER if key == "role" else key not in _ALWAYS_READ and value != "")
            and (key, message["role"]) != ("name", "tool")
        )

    def without(self, key: str) -> "Conversation":
        """The conversation with no such key in its messages; of role, with the system in place of a developer."""
        if key == "role":
            first = self.messages[0]
            return replace(self, messages=(first | {"role": _system_for(first["role"])}, *self.messages[1:]))
        kept = ({name: each for name, each in message.items() if name != key} for message in self.messages)
        return replace(self, messages=tuple(kept))

    @cached_property
    def to_last_answer(self) -> "Conversation":
        """Without the messages behind the last one of the assistant; itself where there is none."""
        count = self.assistants[-1] + 1 if self.assistants else len(self.messages)
        if count == len(self.messages):
            return self
        return replace(self, messages=self.messages[:count], trained=self.trained[:count])


def _system_for(role: str) -> str:
    return "system" if role == DEVELOPER else role


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
    flagged = frozenset(place for place, (_, flag) in enumerate(found) if flag)
    return Conversation(whole, trained, schemas, _unasked(found), flagged)


def _unasked(found: Sequence[tuple[Json, bool | None]]) -> frozenset[int]:
    """The assistant's messages before the first user message, or before any where there is a system message alone."""
    roles = [message["role"] for message, _ in found]
    asked = ("user",) if "user" in roles else SYSTEM_ROLES
    first = next((place for place, role in enumerate(roles) if role in asked), len(roles))
    return frozenset(
        place for place in range(first) if roles[place] == "assistant" and found[place][1] is None
    )


def from_json(value: Any, what: str) -> Any:
    """What a JSON text holds; other values as they are.

    Raises RepeatedKeyError as for a row, and ValueError for a text that is no JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return DECODER.decode(value)
    except RepeatedKeyError:
        raise
    except (ValueError, RecursionError):
        raise ValueError(f"is not {what} but the text {value[:40]!r}") from None


def _message(place: int, given: Any, clean: Clean) -> tuple[Json, bool | None]:
    """The message without its flags, and what they say."""
    if not isinstance(given, dict):
        raise ValueError(f"has in {named(place)} no object but {_shown(given)}; write role and content")
    message = {key: value for key, value in given.items() if value not in (None, [], {})}
    role = _role(place, message)
    where = named(place, role)
    trained = _trained(where, message)
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
    if "content" not in message and role in (*SYSTEM_ROLES, "tool"):
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
    if role not in (*ROLES, DEVELOPER):
        raise ValueError(f"has in {named(place)} the role {str(role)[:40]!r}; {meant_role(role, ROLES)}")
    return str(role)


def meant_role(name: object, known: Collection[str]) -> str:
    """A remedy: the role that another format calls so, if it is one of the known ones."""
    meant = _MEANT.get(str(name).lower(), str(name).lower())
    return f"write {meant}" if meant in known else f"write one of {', '.join(known)}"


def _trained(where: str, message: Json) -> bool | None:
    """Takes the flags out of the message, which templates do not know; None for none."""
    beside = [key for key in message if key not in _ALWAYS_READ]
    if not beside:
        return None
    if part := next((name for name in _IN_PARTS if name in beside), None):
        raise ValueError(
            f"has in {where} {part}: a message is learned whole or not at all; split it, or write train: true or false"
        )
    flags = {name: message.pop(name) for name in FLAGS if name in beside}
    beside = [key for key in beside if key not in flags]
    for name, value in flags.items():
        if value not in (True, False, 0, 1) or isinstance(value, str):
            kinds = "0 or 1" if name in _NUMBERS else "true or false"
            raise ValueError(f"has in {where} {name}: {_shown(value)}; write {kinds}")
    if unsure := next(filter(_is_about_learning, beside), None):
        raise ValueError(
            f"has in {where} {unsure}: {_shown(message[unsure])}, which may say whether the message is learned, and is"
            " not read; write train: true or false, and remove it"
        )
    said = {name: bool(value) != (name == _OPPOSITE) for name, value in flags.items()}
    if len(set(said.values())) > 1:
        raise ValueError(f"has in {where} a {' and a '.join(said)} that differ; remove one")
    return all(said.values()) if said else None


def _is_about_learning(key: str) -> bool:
    """Whether a word in the name of a key, as in isMasked or no_loss, is one of those that say what is learned."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", key)
    return any(word.lower().startswith(_ABOUT_LEARNING) for word in words)


def _content(where: str, content: Any) -> str:
    """The text; of a list of parts the texts joined, as long as all are texts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"has in {where} a content that is no text but {_shown(content)}")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind not in _TEXTS or not isinstance(part.get("text"), str):
            shown = repr(kind) if isinstance(kind, str) and kind not in _TEXTS else _shown(part)
            remedy = "; write thoughts as the message's reasoning_content" if kind in REASONING else ""
            raise ValueError(f"has in {where} a part of the content that is no text: {shown}{remedy}")
        _check_whole(where, "part of the content", part)
        texts.append(part["text"])
    return "".join(texts)


def _check_whole(where: str, what: str, part: Json) -> None:
    """Raise ValueError for a part of a message that may say whether it is learned."""
    if flag := next(filter(_is_about_learning, part), None):
        raise ValueError(
            f"has in {where} a {what} with {flag[:40]}: a message is learned whole or not at all; write train: true or"
            " false in the message, and no flag in its parts"
        )


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
    for each in (call, function):
        _check_whole(where, which, each)
    arguments = function.get("arguments")
    other = next((key for key, value in function.items() if isinstance(value, dict)), None)
    if arguments is None and other:
        raise ValueError(f"has in {where}, {which}, no arguments but {other[:40]!r}; rename it arguments")
    try:
        arguments = {} if arguments in (None, "") else from_json(arguments, "an object")
    except RepeatedKeyError as error:
        raise ValueError(f"has in {where}, {which}, arguments whose JSON {error}") from None
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
        if role in SYSTEM_ROLES and place:
            raise ValueError(f"has a {role} message as {named(place)}; it must be the first")
        if role == before and role in ("user", "assistant"):
            raise ValueError(
                f"has a broken order: {named(place, role)} follows another {role} message; join them, or write what is"
                " between"
            )
        if role == "tool":
            calls.answer(place, message.get("tool_call_id"), message.get("name"))
        else:
            calls.check_answered(place, role)
            calls.open(place, message.get("tool_calls", []))


class _OpenCalls:
    """Calls of the last assistant message that no result answers yet."""

    def __init__(self) -> None:
        self.open(0, [])

    def open(self, place: int, calls: Sequence[Json]) -> None:
        self._place, self._calls = place, list(calls)
        self._results, self._by_id = 0, False

    def check_answered(self, place: int, role: str) -> None:
        """Raises ValueError for a call that a message follows and no result. A result without an id may be for all."""
        missing = [call for call in self._calls if not self._results or "id" in call]
        if missing and (not self._results or self._by_id):
            raise ValueError(
                f"has a tool call without a result: {named(self._place, 'assistant')} calls"
                f" {missing[0]['function']['name']!r}, and {named(place, role)} follows; write the result between them,"
                " or remove the call"
            )

    def answer(self, place: int, identity: Any, name: Any) -> None:
        """Raises ValueError for a result without a call, or with the name of another function."""
        self._results += 1
        by_id = [
            call for call in self._calls if identity is not None and str(call.get("id")) == str(identity)
        ]
        without_id = [call for call in self._calls if "id" not in call]
        found = by_id or without_id or (self._calls if identity is None else [])
        if not found:
            answers = "no call" if identity is None else f"{str(identity)[:40]!r}, which no call has"
            raise ValueError(
                f"has a tool result without a call: {named(place, 'tool')} answers {answers}; write tool_calls in the"
                " assistant's message before it"
            )
        self._by_id |= bool(by_id)
        call = next((each for each in found if each["function"]["name"] == name), found[0])
        self._calls.remove(call)
        if name and name != (called := call["function"]["name"]):
            raise ValueError(
                f"has in {named(place, 'tool')} the name {str(name)[:40]!r}, and it answers a call of {called!r}; write"
                " that name, or remove it"
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
        whole.append({"type": "function", "function": _with_parameters(number, function)})
    _check_reserved("tools", whole)
    return tuple(whole)


def _with_parameters(number: int, function: Json) -> Json:
    """The function with its parameters as an object. Raises ToolsError."""
    other = next((key for key in ("inputSchema", "input_schema") if function.get(key)), None)
    if other and function.get("parameters") is None:
        raise ToolsError(f"has a tool {number} with {other}; rename it parameters")
    if not isinstance(written := function.get("parameters"), str):
        return function
    try:
        return function | {"parameters": from_json(written, "a JSON schema")}
    except ValueError as error:
        raise ToolsError(f"has in tool {number} a text as parameters that {error}") from None


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:40]
