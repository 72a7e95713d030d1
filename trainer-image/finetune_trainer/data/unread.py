"""Columns that other tools read and this one does not: counted while the records of an input pass by."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from finetune_trainer.data.chat.conversation import FLAGS, MEDIA
from finetune_trainer.data.chat.forms import HISTORY, SYSTEM
from finetune_trainer.data.files import Files, place_of
from finetune_trainer.data.records import Record, RowError
from finetune_trainer.data.rows import ReadOptions

_ANSWERS = ("chosen", "rejected")
_SYSTEMS = ("system_prompt", "system_message")
_TOOLS = ("functions", "available_tools", "tool_definitions")
_LABEL = "label"
"""Of answers, whether they are good ones."""
_ELSEWHERE = (
    SYSTEM,
    *_SYSTEMS,
    HISTORY,
    "input",
    "context",
    "tools",
    *_TOOLS,
    *MEDIA,
    "documents",
    "chat_template_kwargs",
    *_ANSWERS,
    _LABEL,
    "mask",
    *FLAGS,
)


class UnreadColumns:
    """Those of one input, of which `there` are the columns that its files name."""

    def __init__(self, files: Files, options: ReadOptions, there: Collection[str] | None) -> None:
        self._files, self._options = files, options
        read = set(options.wanted.values())
        asked = options.asks or options.form is not None
        names = [name for name in _ELSEWHERE if asked and name not in read]
        self.names = tuple(name for name in names if there is None or name in there)
        """What to look at."""
        self._looked_at = frozenset(self.names)
        self._rows: dict[str, int] = {}
        self._first: dict[str, int] = {}

    def counted(self, records: Iterable[Record | RowError]) -> Iterator[Record | RowError]:
        """The records; counts those in which a column says something."""
        for record in records:
            if isinstance(record, Record):
                for name in self._looked_at.intersection(record.fields):
                    if _says(name, record.fields[name]):
                        self._rows[name] = self._rows.get(name, 0) + 1
                        self._first.setdefault(name, record.line)
            yield record

    def described(self) -> str:
        """What was found, and a remedy; empty for nothing."""
        found = [name for name in self.names if name in self._rows]
        if not {*_ANSWERS} <= {*found}:  # who reads one of them does not want the other
            found = [name for name in found if name not in _ANSWERS]
        if not found:
            return ""
        options = self._options
        form = options.form.value if options.form else "prompts with answers"
        columns = ", ".join(map(self._where, found))
        return f"the rows are read as {form}, without what other columns say: {columns}{self._remedy(found)}"

    def _where(self, name: str) -> str:
        file, row = place_of(self._first[name], self._files.name, self._files.names)
        of = f" of {file}" if len(self._files.names) > 1 else ""
        rows = self._rows[name]
        return f"{name} ({rows:,} {'row' if rows == 1 else 'rows'}, the first is {row}{of})"

    def _remedy(self, found: list[str]) -> str:
        chat = self._options.chat is not None
        system = next((name for name in _SYSTEMS if name in found), None)
        tools = next((name for name in _TOOLS if name in found), None)
        if not chat and (SYSTEM in found or system):
            return "; write system messages into the prompts, or write prompts as lists of messages"
        if chat and system:
            return f"; to read {system} as system messages, rename it {SYSTEM}"
        if chat and tools:
            return f"; to read {tools} as tools, set dataset.columns.tools: {tools}"
        if chat and {*_ANSWERS} <= {*found}:
            return "; to learn from chosen and rejected, set objective.preference"
        if _LABEL in found:
            return (
                "; answers with label: false are learned like the others: remove them, or set objective.preference:"
                " {loss: KTO}"
            )
        return ""


def _says(name: str, value: Any) -> bool:
    """Whether a value is there and is not the ordinary one: a weight of 1, train: true, masked: false."""
    if name == _LABEL:  # which may be anything, but for this one
        return value is False
    if name == "masked" and value is False:
        return False
    return value not in (None, "", [], {}, 1)
