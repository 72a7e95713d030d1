"""Which form the rows of an input have: as dataset.rows says, else by the columns where only one form fits."""

import logging
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any

from finetune_api.dataset import ColumnsSpec, DataFormat, RowFormat
from finetune_api.objective import CausalLMSpec
from finetune_api.run import FaultPlace
from finetune_trainer.data.chat.answers import are_answer
from finetune_trainer.data.chat.forms import ChatForm, form_asked, form_of, forms_of
from finetune_trainer.data.files import Files
from finetune_trainer.data.formats import Layout, read_records
from finetune_trainer.data.records import Record
from finetune_trainer.data.rows import ReadOptions
from finetune_trainer.errors import ConfigurationError

logger = logging.getLogger(__name__)

LOOKED_AT = 20
"""Records in which one that can be read, and one with messages, is looked for."""


_QUESTIONS = ("prompt", "question", "query", "instruction")
"""Columns that stand before a text, and are not read unless columns.prompt names them."""


OPENAI = {"prompt": "input", "chosen": "preferred_output", "rejected": "non_preferred_output"}
"""Columns of OpenAI's preferences."""


def chat_form(files: Files, layout: Layout, options: ReadOptions) -> tuple[ChatForm | None, str]:
    """None for plain texts; and what a user may not have meant by them, or no text.

    Raises ConfigurationError where several forms fit, or the spec asks for another.
    """
    asked, columns = options.rows or RowFormat.AUTO, options.columns
    if layout.format is DataFormat.TEXT:
        if asked.is_chat:
            raise _refused(files, f"{files.name} has one text per line and no columns; remove dataset.rows")
        return None, ""
    if asked is RowFormat.TEXT:
        return None, ""
    rows = _first(files, layout)
    there = set(rows[0] if rows else ()) | set(layout.columns or ())
    if asked.is_chat:
        return form_of(asked, columns, there), ""
    found = forms_of(columns, there, rows)
    if columns.text in there and not (columns.messages or columns.completion):
        return None, _unread(found, columns, there)
    if len(found) > 1:
        forms = " or ".join(each.described for each in found)
        raise _refused(
            files, f"the rows of {files.name} can be read as {forms}; set dataset.rows, or rename columns"
        )
    if not found:
        return form_asked(columns, there), ""
    logger.info(f"{files.name}: the rows are read as {found[0].described}")
    return found[0], ""


def _unread(found: list[ChatForm], columns: ColumnsSpec, there: Collection[str]) -> str:
    """What of the rows is not read, as they are texts."""
    if found:
        kind = found[0].kind.value
        return (
            f"the rows are read as Text (column {columns.text}); to read them as {found[0].described}, set"
            f" dataset.rows: {kind}"
        )
    before = next((name for name in _QUESTIONS if name in there and name != columns.text), None)
    if before is None or columns.prompt:
        return ""
    return (
        f"only the column {columns.text} is learned, and the column {before} is not read; if the texts follow it, set"
        f" dataset.columns.prompt: {before}, else dataset.rows: Text"
    )


def answer_columns(files: Files, layout: Layout, options: ReadOptions) -> ColumnsSpec:
    """The columns of pairs, which are OpenAI's where the rows have these and the spec names no others."""
    columns = options.columns
    paired = options.preference is not None and options.preference.paired
    if not paired or any(getattr(columns, part) for part in OPENAI):
        return columns
    there = {name for row in _first(files, layout) for name in row}
    if not there.issuperset(OPENAI.values()) or "chosen" in there:
        return columns
    logger.info(f"{files.name}: the pairs are read from OpenAI's columns {', '.join(OPENAI.values())}")
    return columns.model_copy(update=OPENAI)


def answers_in_messages(files: Files, layout: Layout, options: ReadOptions) -> bool:
    """Whether the chosen answers, or those with a label, are lists of messages."""
    if options.preference is None or layout.format is DataFormat.TEXT:
        return False
    column = options.wanted["text"]
    found = any(are_answer(row.get(column)) for row in _first(files, layout))
    if found:
        logger.info(f"{files.name}: the answers are read as messages (column {column})")
    return found


def check_alike(forms: Mapping[str, RowFormat | None], options: CausalLMSpec | None) -> None:
    """Raise ConfigurationError where parts of a data set differ, or options are for the other kind of rows.

    `forms` are those of the parts by their field, the training rows first.
    """
    chats = {field: form is not None for field, form in forms.items()}
    if len(set(chats.values())) > 1:
        kinds = ", ".join(f"{field} {'conversations' if chat else 'texts'}" for field, chat in chats.items())
        raise ConfigurationError(
            f"dataset.rows: the parts of the data differ: {kinds}; name one form, and give all parts that form",
            FaultPlace(field="dataset.rows"),
        )
    if options is None:
        return
    set_for_chats = [
        name
        for name, value in (("train", options.train), ("chatTemplate", options.chat_template))
        if value is not None
    ]
    if not any(chats.values()) and set_for_chats:
        field = f"objective.causalLM.{set_for_chats[0]}"
        raise ConfigurationError(
            f"{field} is for conversations, and the rows are read as texts; remove it, or set dataset.rows",
            FaultPlace(field=field),
        )
    if any(chats.values()) and not options.mask_prompt:
        field = "objective.causalLM.maskPrompt"
        raise ConfigurationError(
            f"{field} is for texts, and the rows are conversations; to learn their prompts too, write train: All",
            FaultPlace(field=field),
        )


def _first(files: Files, layout: Layout) -> list[dict[str, Any]]:
    records = islice(read_records(files, layout.format, ()), LOOKED_AT)
    return [each.fields for each in records if isinstance(each, Record)]


def _refused(files: Files, why: str) -> ConfigurationError:
    return ConfigurationError(f"dataset.rows: {why}", FaultPlace(field="dataset.rows", file=files.name))
