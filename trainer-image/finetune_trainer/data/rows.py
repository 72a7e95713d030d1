"""Rows: what a record gives once its columns are read, cleaned and checked. Pure."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from finetune_api.dataset import ColumnsSpec, PreprocessingSpec, RowFormat
from finetune_api.objective import PreferenceLoss
from finetune_trainer.data.chat.answers import TOOLS, AnswerColumns, answers
from finetune_trainer.data.chat.conversation import Conversation
from finetune_trainer.data.chat.forms import ChatForm, ColumnError
from finetune_trainer.data.cleaning import Clean, cleaner
from finetune_trainer.data.files import place_of
from finetune_trainer.data.missing import RECORDS, UNSEEN, missing_column
from finetune_trainer.data.records import HEADER_AGAIN, LONGEST_ROW, Record, RowError, too_long
from finetune_trainer.objectives.base import Label
from finetune_trainer.objectives.labels import is_ignored, named_type

ReadLabel = Callable[[object], Label]
"""Reads a label as written in the file; raises ValueError with the end of a sentence, 'is not …'."""
Text = str | tuple[str, ...]
"""A text, or the words of one."""


@dataclass(frozen=True)
class Row:
    """One usable example."""

    line: int
    text: Text
    pair: str | None
    """The second text; for causal LM the prompt."""
    label: Label
    group: str | None
    chat: Conversation | None = None
    """The conversation that the text is a plain form of."""
    rejected: str | None = None
    """Of a pair of answers, the one that is not preferred; the text is the chosen one."""
    rejected_chat: Conversation | None = None
    """The conversation that ends with `rejected`, where `chat` ends with the text."""

    def digest(self) -> int:
        """Identity of the texts in 64 bits: among ten million texts two fall together with probability 3e-6."""
        if self.chat is not None:
            other = self.rejected_chat.identity if self.rejected_chat else ""
            return digest64(self.chat.identity + other)
        joined = self.text if isinstance(self.text, str) else "\0".join(self.text)
        if self.pair is not None:
            joined = f"{len(joined)}:{joined}{self.pair}"
        if self.rejected is not None:
            joined = f"{len(joined)}:{joined}{self.rejected}"
        return digest64(joined)

    def judgement(self, *, opposite: bool = False) -> str:
        """What a preference says, or would say if it said the opposite: which answer is better, or good."""
        answers: list[object] = [
            chat.identity if chat else text
            for chat, text in ((self.chat, self.text), (self.rejected_chat, self.rejected))
        ]
        if self.rejected is None:
            answers[1] = (self.label == 1) != opposite
        elif opposite:
            answers.reverse()
        return json.dumps([self.pair, *answers])

    @property
    def repeats_prompt(self) -> bool:
        """Whether each answer begins with the whole prompt that it follows."""
        if self.chat is not None and self.rejected_chat is None:
            *before, last = self.chat.messages
            prompt, answers = before[-1].get("content", "") if before else "", [last.get("content", "")]
        else:
            prompt, answers = self.pair or "", [str(self.text), self.rejected or str(self.text)]
        return bool(prompt.strip()) and all(each.lstrip().startswith(prompt.strip()) for each in answers)


def digest64(text: str) -> int:
    """The first 64 bits of a text's BLAKE2b."""
    found = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(found, "little")


@dataclass(frozen=True)
class ReadOptions:
    """How files are read; the same for training, validation and test rows."""

    columns: ColumnsSpec
    preprocessing: PreprocessingSpec
    max_invalid_rows: str
    read_label: ReadLabel
    group_by: str | None = None
    per_token: bool = False
    """With labels: the text is a list of words, each with a label."""
    labelled: bool = True
    label_lists: bool = False
    """A label is a list; as a text, which is all that CSV has, it is written in JSON."""
    label_numbers: bool = False
    """Labels are numbers to predict."""
    rows: RowFormat | None = None
    """What a row of a language model holds, as dataset.rows says."""
    chat: ChatForm | None = None
    """Rows are conversations of this form."""
    preference: PreferenceLoss | None = None
    """Rows are prompts with two answers, or with one and a label."""
    in_messages: bool = False
    """Of answers to prefer or to avoid: they are lists of messages."""

    @cached_property
    def wanted(self) -> dict[str, str]:
        """Columns by the part of a Row that they give."""
        if self.chat is not None:
            columns = {f"{self.chat.kind.value}.{name}": name for name in self.chat.columns}
            return columns | ({"group": self.group_by} if self.group_by else {})
        if self.preference is not None:
            return self._answers | ({"group": self.group_by} if self.group_by else {})
        names = {
            "text": self.columns.text,
            "pair": self.columns.text_pair,
            "prompt": self.columns.prompt,
            "label": self.columns.label if self.labelled else None,
            "group": self.group_by,
        }
        return {part: name for part, name in names.items() if name is not None}

    @property
    def form(self) -> RowFormat | None:
        """Of conversations; None for texts."""
        return RowFormat.MESSAGES if self.in_messages else self.chat.kind if self.chat else None

    @property
    def asks(self) -> bool:
        """Whether a row is a prompt with an answer or two, in separate columns."""
        if self.chat is not None:
            return self.chat.kind in (RowFormat.PROMPT_COMPLETION, RowFormat.ALPACA)
        return "prompt" in self.wanted

    @property
    def _answers(self) -> dict[str, str]:
        columns, prompt = self.columns, {"prompt": self.columns.prompt or "prompt"}
        if self.in_messages:
            prompt |= {"tools": TOOLS}
        if self.preference is not None and self.preference.paired:
            return prompt | {"text": columns.chosen or "chosen", "rejected": columns.rejected or "rejected"}
        return prompt | {"text": columns.completion or "completion", "label": columns.label}

    @property
    def of_words(self) -> bool:
        """Whether a text is a list of words."""
        return self.per_token and self.labelled and self.preference is None


def rows_of(
    records: Iterable[Record | RowError], options: ReadOptions, files: Sequence[str] = ()
) -> Iterator[Row | RowError]:
    """The row of every record, or why there is none; `files` are the names of several."""
    joined = options.chat is None and "prompt" in options.wanted
    clean, kind = cleaner(options.preprocessing, joined=joined), _LabelKind(options, files)
    for record in records:
        if isinstance(record, RowError):
            yield record
            continue
        read = _answers if options.in_messages else _row if options.chat is None else _chat
        row = read(record, options, clean)
        yield row if isinstance(row, RowError) else kind.error(record, row) or row


class _LabelKind:
    """What the labels of a file are, texts, numbers or booleans: all alike, as only their string forms are kept.

    Of a regression they are numbers, whatever way they are written.
    """

    def __init__(self, options: ReadOptions, files: Sequence[str]) -> None:
        self._options, self._files = options, files
        self._first: tuple[str, int] | None = None

    def error(self, record: Record, row: Row) -> RowError | None:
        """Why the row cannot be used together with the first one."""
        labels = row.label if isinstance(row.label, tuple) else (row.label,)
        if not labels or not isinstance(labels[0], str):
            return None
        column = self._options.columns.label
        written = record.fields[column]
        if self._options.label_lists:
            written = _listed(written)
        for value in written if isinstance(written, list | tuple) else [written]:
            if self._options.of_words and is_ignored(value):
                continue
            kind = named_type(value)
            self._first = self._first or (kind, record.line)
            if kind != self._first[0]:
                first, (file, number) = self._first[0], place_of(self._first[1], "", self._files)
                where = f"row {number} of {file}" if len(self._files) > 1 else f"row {number}"
                message = f"has {kind} as label, {json.dumps(value)[:40]}, where {where} has {first}"
                return RowError(record.line, f"{message}; write all labels of a file alike", column)
        return None


def _row(record: Record, options: ReadOptions, clean: Clean) -> Row | RowError:
    values: dict[str, Any] = {}
    for name in options.wanted.values():
        if name not in record.fields:
            asks = name == options.columns.text and not options.labelled
            return RowError(record.line, missing_column(name, record.fields, asks=asks), name)
    if len(options.wanted) > 1 and all(record.fields[name] == name for name in options.wanted.values()):
        return RowError(record.line, HEADER_AGAIN)
    for part, name in options.wanted.items():
        try:
            values[part] = _value(part, record.fields[name], options, clean)
        except ValueError as error:
            return RowError(record.line, str(error), name)
    if options.of_words and len(values["text"]) != len(values["label"]):
        reason = f"has {len(values['label'])} labels for {len(values['text'])} words"
        return RowError(record.line, reason, options.columns.label)
    pair, rejected = values.get("pair", values.get("prompt")), values.get("rejected")
    if rejected is not None and rejected == values["text"]:
        reason = "has the same text as the chosen answer, so nothing is preferred; remove the row"
        return RowError(record.line, reason, options.wanted["rejected"])
    label, group = values.get("label"), values.get("group")
    return Row(record.line, values["text"], pair, label, group, rejected=rejected)


def _chat(record: Record, options: ReadOptions, clean: Clean) -> Row | RowError:
    """The row of a conversation; its characters are those of all messages."""
    assert options.chat is not None
    needed = [*options.chat.required, *([options.group_by] if options.group_by else [])]
    for name in needed:
        if name not in record.fields:
            return RowError(record.line, missing_column(name, record.fields), name)
    if all(record.fields[name] == name for name in options.chat.required):
        return RowError(record.line, HEADER_AGAIN)
    try:
        chat = options.chat.read(record.fields, clean)
    except ColumnError as error:
        return RowError(record.line, str(error), error.column)
    size, least = len(chat.text), options.preprocessing.min_characters
    if size > LONGEST_ROW:
        return RowError(record.line, too_long(size, "characters"), options.chat.required[0])
    if size < least:
        return RowError(record.line, f"has {size} characters, fewer than {least}", options.chat.required[0])
    group = _value("group", record.fields[options.group_by], options, clean) if options.group_by else None
    return Row(record.line, chat.text, None, None, group if isinstance(group, str) else None, chat)


def _answers(record: Record, options: ReadOptions, clean: Clean) -> Row | RowError:
    """Of answers in messages. The texts are those of the last messages; the prompt's are a line for each."""
    parts = options.wanted
    names = AnswerColumns(
        parts["prompt"], tuple(parts[each] for each in ("text", "rejected") if each in parts)
    )
    beside = [parts[each] for each in ("label", "group") if each in parts]
    for name in (*names.answers, *beside):
        if name not in record.fields:
            return RowError(record.line, missing_column(name, record.fields), name)
    try:
        chats = answers(record.fields, names, clean)
    except ColumnError as error:
        return RowError(record.line, str(error), error.column)
    size, least = sum(len(chat.text) for chat in chats), options.preprocessing.min_characters
    if size > LONGEST_ROW:
        return RowError(record.line, too_long(size, "characters"), names.answers[0])
    texts = [replace(chat, messages=chat.messages[-1:]).text.partition(": ")[2] for chat in chats]
    for text, name in zip(texts, names.answers, strict=True):
        if len(text) < least:
            return RowError(record.line, f"has {len(text)} characters, fewer than {least}", name)
    values: dict[str, Any] = {}
    for part in ("label", "group"):
        try:
            values[part] = _value(part, record.fields[parts[part]], options, clean) if part in parts else None
        except ValueError as error:
            return RowError(record.line, str(error), parts[part])
    return Row(
        record.line,
        texts[0],
        pair=replace(chats[0], messages=chats[0].messages[:-1]).text,
        label=values["label"],
        group=values["group"],
        chat=chats[0],
        rejected=texts[1] if len(chats) == 2 else None,
        rejected_chat=chats[1] if len(chats) == 2 else None,
    )


def _value(part: str, value: Any, options: ReadOptions, clean: Clean) -> Label:
    least = options.preprocessing.min_characters
    if part == "label":
        return options.read_label(_listed(value) if options.label_lists else value)
    if part == "group":
        return None if value is None or value == "" or value != value else str(value)
    if part == "prompt":
        return _text(value, clean, 0)
    if part == "text" and options.of_words:
        return _words(_listed(value), clean, least)
    return _text(value, clean, least)


def _listed(value: Any) -> Any:
    """What a JSON text holds; other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError(f"is not a list but the text {value[:40]!r}; write a list as JSON") from None


def _text(value: Any, clean: Clean, least: int) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is not a text but {named_type(value)}{_remedy(value)}")
    if len(value) > LONGEST_ROW:
        raise ValueError(too_long(len(value), "characters"))
    text = clean(value)
    if least and not text.strip(UNSEEN):
        raise ValueError("is empty" if not text else "has only white space or invisible characters")
    if len(text) < least:
        raise ValueError(f"has {len(text)} characters, fewer than {least}")
    return text


def _words(value: Any, clean: Clean, least: int) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"is not a list of words but {named_type(value)}")
    if not value:
        raise ValueError("has no word")
    words = tuple(_text(word, clean, 0) for word in value)
    for number, word in enumerate(words, start=1):
        if not word.strip():
            raise ValueError(f"has no characters in word {number}")
    characters = sum(map(len, words))
    if characters > LONGEST_ROW:
        raise ValueError(too_long(characters, "characters"))
    if characters < least:
        raise ValueError(f"has {characters} characters, fewer than {least}")
    return words


def _remedy(value: object) -> str:
    """What to do about a value that is not a text, where its form shows where it comes from."""
    if isinstance(value, dict) and value and all(str(key).isdigit() for key in value):
        return f"; this is pandas' to_json() by column: {RECORDS}"
    if isinstance(value, list):
        return "; write one text per row"
    return ""
