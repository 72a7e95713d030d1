"""Tokenizes prompts with two answers: a chosen and a rejected one, or one and that of another prompt. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from finetune_trainer.data.chat.encode import ChatEncoding, answer_tokens
from finetune_trainer.data.encoded import AnswerParts, Encoded, Ints
from finetune_trainer.data.rows import Row
from finetune_trainer.objectives.base import IGNORED


@dataclass(frozen=True)
class _Sequence:
    """A prompt with an answer."""

    prompt: Ints
    answer: Ints
    has_start: bool
    """The prompt begins with a special token of the tokenizer."""
    doubled: bool

    @property
    def spare(self) -> int:
        """Tokens of the prompt that can be dropped: all but the first special one, or one."""
        return max(0, len(self.prompt) - 1)

    def within(self, most: int, dropped: int, *, left: bool) -> "_Sequence":
        """With at most `most` tokens, without the `dropped` first ones of the prompt."""
        start = int(self.has_start)
        prompt = np.concatenate([self.prompt[:start], self.prompt[start + dropped :]])
        rest = most - len(prompt)
        answer = self.answer[max(0, len(self.answer) - rest) :] if left else self.answer[:rest]
        return _Sequence(prompt, answer, self.has_start, self.doubled)

    @property
    def ids(self) -> Ints:
        return np.concatenate([self.prompt, self.answer])

    @property
    def targets(self) -> Ints:
        found = self.ids
        found[: max(1, len(self.prompt))] = IGNORED
        return found

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def encode_answers(
    rows: Sequence[Row], tokenizer: Any, max_length: int, chat: ChatEncoding | None = None, *, paired: bool
) -> Encoded:
    """Each answer behind its prompt as one string, with the tokenizer's first token and an end-of-text token.

    Answers in messages are written by the `chat` template, and end with the token that ends a turn.

    Where a sequence is longer than `max_length` the prompt gives way first, from its left, and by as much for both
    answers: they have to be judged in the same context.
    """
    pairs = _texts(rows, tokenizer, paired=paired) if chat is None else _messages(rows, chat, paired=paired)
    left = tokenizer.truncation_side == "left"
    ids, targets, cut, doubled, parts = [], [], [], [], []
    for pair in pairs:
        dropped = min(max(0, *(len(each) - max_length for each in pair)), *(each.spare for each in pair))
        first, second = (each.within(max_length, dropped, left=left) for each in pair)
        ids.append(np.concatenate([first.ids, second.ids]))
        targets.append(np.concatenate([first.targets, second.targets]))
        cut.append(sum(map(len, pair)) - len(ids[-1]))
        doubled.append(any(each.doubled for each in pair))
        parts.append(len(first))
    labels = [1.0 if row.label is None else float(cast("float", row.label)) for row in rows]
    answers = AnswerParts(parts, labels)
    return Encoded(ids, None, targets, cut, doubled, [0] * len(rows), answers=answers)


def _texts(rows: Sequence[Row], tokenizer: Any, *, paired: bool) -> Iterable[tuple[_Sequence, _Sequence]]:
    prompts = [row.pair or "" for row in rows]
    firsts = [str(row.text) for row in rows]
    seconds = (
        [cast("str", row.rejected) for row in rows]
        if paired
        else [firsts[other] for other in mismatched(prompts)]
    )
    return zip(_sequences(prompts, firsts, tokenizer), _sequences(prompts, seconds, tokenizer), strict=True)


def _messages(
    rows: Sequence[Row], chat: ChatEncoding, *, paired: bool
) -> Iterator[tuple[_Sequence, _Sequence]]:
    start = chat.tokenizer.bos_token_id
    found = [
        [
            _Sequence(prompt, answer, has_start=len(prompt) > 0 and prompt[0] == start, doubled=False)
            for prompt, answer in answer_tokens(row, chat)
        ]
        for row in rows
    ]
    if paired:
        yield from ((first, second) for first, second in found)
        return
    others = mismatched([row.pair or "" for row in rows])
    for (first,), other in zip(found, others, strict=True):
        yield first, replace(first, answer=found[other][0].answer)


def mismatched(prompts: Sequence[str]) -> list[int]:
    """For each row the next one with another prompt; if there is none, the next row."""
    count, found = len(prompts), []
    for row in range(count):
        following = [(row + step) % count for step in range(1, count)] or [row]
        found.append(next((each for each in following if prompts[each] != prompts[row]), following[0]))
    return found


def _sequences(prompts: Sequence[str], answers: Sequence[str], tokenizer: Any) -> list[_Sequence]:
    found = tokenizer(
        [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)],
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
    )
    return [
        _sequence(np.asarray(ids, dtype=np.int64), offsets, len(prompt), tokenizer.eos_token_id)
        for ids, offsets, prompt in zip(found["input_ids"], found["offset_mapping"], prompts, strict=True)
    ]


def _sequence(ids: Ints, offsets: Sequence[tuple[int, int]], prompt: int, end: int | None) -> _Sequence:
    """Parted behind the prompt's last character; a token that reaches beyond it belongs to the answer."""
    ends = np.asarray([last for _, last in offsets], dtype=np.int64)
    has_start = len(ends) > 0 and bool(ends[0] == 0)
    twice = has_start and len(ids) > 1 and bool(ids[0] == ids[1])
    ids, ends = ids[int(twice) :], ends[int(twice) :]
    beyond = np.flatnonzero(ends > prompt)
    begin, stop = (int(beyond[0]), int(beyond[-1]) + 1) if len(beyond) else (len(ids), len(ids))
    answer = ids[begin:stop]
    has_end = len(answer) > 0 and bool(answer[-1] == end)
    if end is not None and not has_end:
        answer = np.append(answer, end)
    return _Sequence(ids[:begin], answer, has_start, doubled=twice or has_end)
