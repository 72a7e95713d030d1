"""Turns rows into token ids and targets, as the kind of objective needs them. Pure."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from finetune_trainer.data.chat.encode import ChatEncoding, encode_chats
from finetune_trainer.data.encoded import Encoded, Ints
from finetune_trainer.data.preference import encode_answers
from finetune_trainer.data.rows import Row
from finetune_trainer.objectives import Objective
from finetune_trainer.objectives.base import IGNORED
from finetune_trainer.objectives.preference import Preference


@dataclass(frozen=True)
class Encoding:
    """How texts become tokens."""

    tokenizer: Any
    max_length: int
    mask_prompt: bool = True
    """Causal LM: learn the text alone and not the prompt before it."""
    chat: ChatEncoding | None = None
    """How conversations become texts; None for rows that are texts."""

    @cached_property
    def digest(self) -> str:
        """sha256 of all that decides the tokens of a text; taken once, as use leaves traces in the tokenizer."""
        tokenizer = self.tokenizer
        options = (self.max_length, self.mask_prompt, tokenizer.truncation_side, tokenizer.eos_token_id)
        chat = self.chat.decisive if self.chat else ""
        return hashlib.sha256(f"{options}{tokenizer.backend_tokenizer.to_str()}{chat}".encode()).hexdigest()


def encode(rows: Sequence[Row], objective: Objective[Any], how: Encoding) -> Encoded:
    """Tokenize rows with special tokens, cut to `max_length`, without padding."""
    if isinstance(objective, Preference):
        paired = objective.spec.loss.paired
        return encode_answers(rows, how.tokenizer, how.max_length, how.chat, paired=paired)
    if how.chat is not None:
        return encode_chats(rows, how.tokenizer, how.max_length, how.chat)
    kind: Callable[..., Encoded] = _texts
    if objective.per_token:
        kind = _words if objective.labelled else _documents
    return kind(rows, objective, how)


def _texts(rows: Sequence[Row], objective: Objective[Any], how: Encoding) -> Encoded:
    paired = rows[0].pair is not None
    found = how.tokenizer(
        [row.text for row in rows],
        [row.pair for row in rows] if paired else None,
        truncation=True,
        max_length=how.max_length,
        padding=False,
        return_attention_mask=False,
    )
    types = found.get("token_type_ids") if paired else None
    targets = objective.encode([row.label for row in rows])
    cut = [
        _cut_from(encoding, row, how.tokenizer) for encoding, row in zip(found.encodings, rows, strict=True)
    ]
    doubled = list(map(_doubled, found.encodings))
    return Encoded(
        _arrays(found["input_ids"]), types and _arrays(types), targets, cut, doubled, [0] * len(rows)
    )


def _cut_from(encoding: Any, row: Row, tokenizer: Any) -> int:
    """Tokens of a row's texts that are not in its truncated encoding."""
    if not encoding.overflowing:
        return 0
    if row.pair is None:
        return sum(len(part.ids) - sum(part.special_tokens_mask) for part in encoding.overflowing)
    whole = tokenizer(row.text, row.pair, return_attention_mask=False)["input_ids"]
    return len(whole) - len(encoding.ids)


def _doubled(encoding: Any) -> bool:
    """Whether a special token that was added stands beside the same one of the text."""
    ids, added = encoding.ids, encoding.special_tokens_mask
    pairs = ((0, 1), (-1, -2)) if len(ids) > 1 else ()
    return any(ids[end] == ids[inner] and added[end] > added[inner] for end, inner in pairs)


def _words(rows: Sequence[Row], objective: Objective[Any], how: Encoding) -> Encoded:
    """The words joined by spaces, as the model saw texts before; the label stands at a word's first token."""
    found = how.tokenizer(
        [" ".join(row.text) for row in rows],
        truncation=True,
        max_length=how.max_length,
        padding=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
    )
    ids, labels = _arrays(found["input_ids"]), objective.encode([row.label for row in rows])
    targets, lost = [], []
    for row, offsets, classes in zip(rows, found["offset_mapping"], labels, strict=True):
        words = first_tokens(row.text, np.asarray(offsets, dtype=np.int64))
        targets.append(np.where(words >= 0, classes[words], IGNORED))
        lost.append(int((classes != IGNORED).sum() - (targets[-1] != IGNORED).sum()))
    cut = [
        _cut_from(encoding, row, how.tokenizer) for encoding, row in zip(found.encodings, rows, strict=True)
    ]
    return Encoded(ids, None, targets, cut, [False] * len(rows), lost)


def first_tokens(words: Sequence[str], offsets: Ints) -> Ints:
    """The word that each token is the first one of, else -1; `offsets` (tokens, 2) are into the words joined by spaces.

    A token belongs to the word that its last character is in: some tokens begin with the space before it.
    """
    starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    real = offsets[:, 1] > offsets[:, 0]
    word = np.where(real, np.searchsorted(starts, offsets[:, 1] - 1, side="right") - 1, -1)
    previous = np.concatenate([[-1], word[:-1]])
    first = np.where(word != previous, word, -1)
    opening = int(np.argmax(real))
    if real.any() and offsets[opening, 0] > starts[word[opening]]:
        first[opening] = -1  # the text was cut on the left, within this word
    return first


def _documents(rows: Sequence[Row], _objective: Objective[Any], how: Encoding) -> Encoded:
    """Prompt and text tokenized as one string, with the tokenizer's first token and an end-of-text token.

    Neither is added to a text that has it already, as those made by a chat template do.
    """
    found = how.tokenizer(
        [(row.pair or "") + str(row.text) for row in rows],
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
    )
    ids, targets, cut, doubled = [], [], [], []
    for row, tokens, offsets in zip(rows, found["input_ids"], found["offset_mapping"], strict=True):
        ends = np.asarray([end for _, end in offsets], dtype=np.int64)
        tokens = np.asarray(tokens, dtype=np.int64)
        has_start = len(ends) > 0 and bool(ends[0] == 0)
        start_twice = has_start and len(tokens) > 1 and bool(tokens[0] == tokens[1])
        tokens, ends = tokens[int(start_twice) :], np.concatenate([ends[:1], ends[1 + int(start_twice) :]])
        prefix, completion = _parted(tokens, ends, len(row.pair or ""))
        has_end = len(completion) > 0 and completion[-1] == how.tokenizer.eos_token_id
        whole = len(prefix) + len(completion) + int(how.tokenizer.eos_token_id is not None and not has_end)
        completion = completion if has_end else _ended(completion, how.tokenizer)
        prefix, completion = _cut(prefix, completion, has_start, how)
        cut.append(whole - len(prefix) - len(completion))
        doubled.append(bool(start_twice or has_end))
        ids.append(np.concatenate([prefix, completion]))
        hidden = len(prefix) if how.mask_prompt and row.pair is not None else 0
        targets.append(ids[-1].copy())
        targets[-1][: max(1, hidden)] = IGNORED
    return Encoded(ids, None, targets, cut, doubled, [0] * len(rows))


def _parted(ids: Ints, ends: Ints, prompt: int) -> tuple[Ints, Ints]:
    """The tokens up to the prompt's end, and the others; one that reaches beyond the end belongs to the others."""
    beyond = np.flatnonzero(ends > prompt)
    if not len(beyond):
        return ids, ids[:0]
    return ids[: beyond[0]], ids[beyond[0] : beyond[-1] + 1]


def _ended(completion: Ints, tokenizer: Any) -> Ints:
    end = tokenizer.eos_token_id
    return completion if end is None else np.append(completion, end)


def _cut(prefix: Ints, completion: Ints, has_start: bool, how: Encoding) -> tuple[Ints, Ints]:
    """Within max_length: the prompt gives way first, from its left, but one token stays before the completion."""
    room = max(how.max_length - len(completion), min(1, len(prefix)))
    if len(prefix) > room:
        start = prefix[: int(has_start)]
        prefix = np.concatenate([start, prefix[len(prefix) - (room - len(start)) :]])
    left = how.max_length - len(prefix)
    if how.tokenizer.truncation_side == "left":
        return prefix, completion[max(0, len(completion) - left) :]
    return prefix, completion[:left]


def _arrays(lists: list[list[int]]) -> list[Ints]:
    return [np.asarray(row, dtype=np.int64) for row in lists]
