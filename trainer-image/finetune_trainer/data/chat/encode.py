"""Turns rows that are conversations into token ids and targets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from finetune_api.objective import CausalLMSpec, TrainedTurns
from finetune_trainer.data.chat.conversation import Conversation, named
from finetune_trainer.data.chat.templates import ChatTemplate, template_of
from finetune_trainer.data.chat.tokens import Chats, ChatTokens
from finetune_trainer.data.encoded import ChatCounts, Encoded, Ints, Untrained
from finetune_trainer.data.rows import Row
from finetune_trainer.objectives.base import IGNORED


@dataclass(frozen=True)
class ChatEncoding:
    """How conversations become texts, and what of them is learned."""

    tokenizer: Any
    template: ChatTemplate
    train: TrainedTurns = TrainedTurns.ASSISTANT

    @property
    def decisive(self) -> str:
        """All that decides it, beside the tokenizer's vocabulary."""
        return f"{self.train.value}{self.tokenizer.special_tokens_map}{self.template.source}"

    @cached_property
    def chats(self) -> Chats:
        """The template at work."""
        return Chats(self.tokenizer, self.template, self.train)


def chat_encoding(tokenizer: Any, options: CausalLMSpec | None, path: str | None = None) -> ChatEncoding:
    """How conversations are written, with the template of the file `path` if it is in one. Raises as `template_of`.

    Without options they are answers, which are their last turns.
    """
    train = (options.train or TrainedTurns.ASSISTANT) if options else TrainedTurns.LAST_TURN
    return ChatEncoding(tokenizer, template_of(tokenizer, options, path), train)


class RowChatError(ValueError):
    """Why one of the rows cannot be learned, as a sentence without its place."""

    def __init__(self, row: Row, reason: str) -> None:
        super().__init__(reason)
        self.row = row


def encode_chats(rows: Sequence[Row], tokenizer: Any, max_length: int, how: ChatEncoding) -> Encoded:
    """Tokens of the rows, cut to `max_length`; those without a trained token are not among them.

    Raises RowChatError.
    """
    ids, targets, cut = [], [], []
    kept: list[int] = []
    dropped: list[tuple[int, Untrained]] = []
    cut_turns: list[int] = []
    controls: list[int] = []
    stops: set[int] = set()
    inside, dated = 0, False
    omitted, greetings, unanswered, ignored = list[int](), list[int](), list[int](), list[int]()
    left = tokenizer.truncation_side == "left"
    for place, row in enumerate(rows):
        found = _tokens(row, how)
        dated |= found.dated
        whole, first = len(found.ids), _first_token(found, max_length, left=left)
        span = slice(first, first + max_length)
        trained = found.trained[span].copy()
        trained[:1] = False  # nothing stands before it, from which it could be predicted
        if not trained.any():
            dropped.append((place, _why_untrained(row, found, how.train)))
            continue
        kept.append(place)
        ids.append(found.ids[span])
        targets.append(np.where(trained, ids[-1], IGNORED))
        cut.append(whole - len(ids[-1]))
        ends = [end - 1 for _, end in found.turns]
        inside += found.inside
        cut_turns.append(sum(not first <= end < first + max_length for end in ends))
        controls.append(found.control_tokens)
        stops |= {int(found.ids[end]) for end in ends if first <= end < first + max_length}
        omitted += [place] if found.omitted else []
        greetings += [place] if row.chat and row.chat.unasked and how.train is TrainedTurns.ASSISTANT else []
        unanswered += [place] if found.unanswered else []
        ignored += [place] if found.ignored else []
    counts = ChatCounts(
        kept,
        dropped,
        cut_turns,
        controls,
        sorted(stops),
        inside,
        omitted,
        greetings,
        unanswered,
        ignored,
        dated,
    )
    nothing = [0] * len(ids)
    return Encoded(ids, None, targets, cut, [False] * len(ids), nothing, counts)


def _why_untrained(row: Row, found: ChatTokens, train: TrainedTurns) -> Untrained:
    chat = row.chat
    assert chat is not None
    if found.trained.any():
        return Untrained.CUT
    if not chat.assistants:
        return Untrained.NO_ANSWER
    turns = chat.assistants[-1:] if train is TrainedTurns.LAST_TURN else chat.assistants
    return Untrained.UNASKED if chat.unasked.intersection(turns) else Untrained.EXCLUDED


def answer_tokens(row: Row, how: ChatEncoding) -> Iterator[tuple[Ints, Ints]]:
    """Of each answer the tokens before it, and its own with the one that ends the turn. Raises RowChatError."""
    for chat in filter(None, (row.chat, row.rejected_chat)):
        found = _tokens(row, how, chat)
        if found.omitted:
            raise RowChatError(row, f"the chat template does not write {named(found.omitted[0])}")
        ((start, end),) = found.turns
        yield found.ids[:start], found.ids[start:end]


def _tokens(row: Row, how: ChatEncoding, chat: Conversation | None = None) -> ChatTokens:
    chat = chat or row.chat
    assert chat is not None
    try:
        return how.chats.tokens(chat)
    except ValueError as error:
        raise RowChatError(row, str(error)) from error


def _first_token(found: ChatTokens, max_length: int, *, left: bool) -> int:
    """The first token that stays."""
    return max(0, len(found.ids) - max_length) if left else 0
