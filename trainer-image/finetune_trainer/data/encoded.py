"""What tokenizing rows gives. Pure."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """Some tokenized rows."""

    ids: list[Ints]
    types: list[Ints] | None
    """Token type ids, of pairs where the model knows them."""
    targets: list[Ints] | npt.NDArray[Any]
    """One array a row, as long as its ids, or (rows, …)."""
    cut: list[int]
    """Tokens of each row that truncation removed."""
    doubled: list[bool]
    """Whether each text itself begins or ends with the special tokens that the tokenizer adds."""
    lost_words: list[int]
    """Words of each row that have a label and no token; zeros where labels are not of words."""
    chat: "ChatCounts | None" = None
    """What was found in conversations."""
    answers: "AnswerParts | None" = None
    """Of rows with two answers, where the second one begins."""


class Untrained(IntEnum):
    """Why no token of a conversation is learned."""

    NO_ANSWER = 0
    """It has no message of the assistant."""
    EXCLUDED = 1
    """train: false stands where something would be learned."""
    UNASKED = 2
    """The assistant speaks before anybody asks, and not again."""
    CUT = 3
    """What is learned is cut off."""


@dataclass(frozen=True)
class ChatCounts:
    """What was found while conversations became tokens; counts of each row are those of rows that were kept."""

    kept: list[int]
    """Places of the rows that have a trained token."""
    dropped: list[tuple[int, Untrained]]
    """Places of the others, and why."""
    cut_turns: list[int]
    """Trained turns of each row that lost the token that ends them."""
    control_tokens: list[int]
    """Control tokens in the messages of each row."""
    stops: list[int]
    """Ids of the tokens that end trained turns, each once."""
    inside: int
    """Trained turns that begin inside a token."""
    omitted: list[int]
    """Places of the rows with a message that the template does not write."""
    greetings: list[int]
    """Places of the rows in which the assistant speaks before anybody asks, and that is not learned."""
    unanswered: list[int]
    """Places of the rows that go on after the last message of the assistant, and are cut there."""
    ignored: list[int]
    """Places of the rows with train: true in a message that is not learned."""
    dated: bool
    """Whether the template writes the date of today."""


@dataclass(frozen=True)
class AnswerParts:
    """Rows of a preference: each has the tokens of the prompt with one answer, then of the prompt with the other."""

    firsts: list[int]
    """Tokens of the first."""
    labels: list[float]
    """1 for a first answer that is good, 0 for a bad one."""
