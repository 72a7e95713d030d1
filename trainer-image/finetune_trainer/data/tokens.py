"""Tokenized rows, kept in flat arrays."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from finetune_api.objective import TrainedTurns
from finetune_api.run import FaultPlace
from finetune_trainer.data.chat.encode import ChatEncoding, RowChatError
from finetune_trainer.data.encoded import ChatCounts, Encoded, Untrained
from finetune_trainer.data.encoding import Encoding, encode
from finetune_trainer.data.files import place_of
from finetune_trainer.data.rows import Row
from finetune_trainer.data.sources import Source
from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.objectives import Objective

CHAT_ARRAYS = (
    "untrained",
    "untrained_why",
    "cut_turns",
    "control_tokens",
    "omitted",
    "greetings",
    "unanswered",
    "ignored",
    "stops",
    "turns_inside",
    "dated",
)
"""Names of the arrays that only conversations have."""
CHUNK_ROWS, CHUNK_CHARACTERS = 1024, 1_000_000
"""Rows tokenized at once: enough for the tokenizer's threads, few enough that its lists stay small."""


def _no_counts() -> npt.NDArray[Any]:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Examples:
    """Tokenized rows: example i has the tokens offsets[i] to offsets[i+1]. The arrays may be memory-mapped files."""

    name: str
    ids: npt.NDArray[Any]
    """uint16 if the tokenizer's largest id fits, else int32."""
    types: npt.NDArray[np.int8] | None
    """Token type ids, of pairs where the model knows them."""
    offsets: npt.NDArray[np.int64]
    targets: npt.NDArray[Any]
    """(rows, …); of an objective per token int32 at the offsets of the ids, -100 where nothing is predicted."""
    lines: npt.NDArray[np.int64]
    """Number of each row in its file or files, for `place`."""
    cut: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    """Tokens of each row that truncation removed."""
    doubled: npt.NDArray[np.int8] = field(default_factory=_no_counts)
    """1 for a row whose text has the tokenizer's special tokens itself."""
    lost_words: npt.NDArray[np.int32] = field(default_factory=_no_counts)
    """Words of each row that have a label and no token."""
    untrained: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    """Numbers of the conversations that were dropped, as no token of them is learned."""
    untrained_why: npt.NDArray[np.int8] = field(default_factory=_no_counts)
    """Of each of these an Untrained."""
    cut_turns: npt.NDArray[np.int32] = field(default_factory=_no_counts)
    """Trained turns of each conversation that lost the token that ends them."""
    control_tokens: npt.NDArray[np.int32] = field(default_factory=_no_counts)
    """Control tokens in the messages of each conversation."""
    omitted: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    """Numbers of the conversations with a message that the template does not write."""
    greetings: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    """Numbers of the conversations in which the assistant speaks first, and that is not learned."""
    unanswered: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    """Numbers of the conversations that are cut behind the last message of the assistant."""
    ignored: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    """Numbers of the conversations with train: true in a message that is not learned."""
    stops: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    """Ids of the tokens that end trained turns, possibly more than once."""
    turns_inside: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    """Numbers of trained turns that begin inside a token."""
    dated: npt.NDArray[np.int8] = field(default_factory=_no_counts)
    """Whether the template wrote the date of the day; one entry or more."""
    own_special: bool = False
    """Special tokens of the text stand in place of the tokenizer's own."""
    per_token: bool = False
    files: tuple[str, ...] = ()
    """Names of the files that the rows are from, where there are several."""
    firsts: npt.NDArray[np.int64] | None = None
    """Of rows with two answers, the tokens of the prompt with the first; those with the second one follow."""
    labels: npt.NDArray[np.float32] | None = None
    """Of rows with two answers, whether the first one is good."""
    reference: npt.NDArray[np.float32] | None = None
    """Log-probabilities of both answers before training (rows, 2)."""
    packed_to: int | None = None
    """Tokens of a sequence that several examples share; None if each has a separate one."""
    varlen: bool = False
    """Examples that share a sequence are kept apart by their bounds, without a mask and without padding."""

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> tuple[str, int]:
        """The file of an example, and its row there."""
        return place_of(int(self.lines[row]), self.name, self.files)

    @property
    def is_chat(self) -> bool:
        """Whether the rows are conversations."""
        return len(self.dated) > 0

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that end trained turns."""
        return tuple(np.unique(self.stops).tolist())

    @property
    def digest(self) -> str:
        """sha256 of the rows' numbers and tokens."""
        parts = (self.lines, self.offsets, self.ids, self.types, self.firsts)
        found = hashlib.sha256()
        for part in parts:
            if part is not None:
                found.update(np.ascontiguousarray(part).data)
        return found.hexdigest()

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of every example."""
        return np.diff(self.offsets)


def tokenize(
    source: Source,
    objective: Objective[Any],
    tokenizer: Any,
    max_length: int,
    mask_prompt: bool = True,
    chat: ChatEncoding | None = None,
) -> Examples:
    """Tokenize all rows of a source in memory; `cache.tokenized` does the same in files."""
    collected: dict[str, list[npt.NDArray[Any]]] = {}
    for part in arrays_of(source, objective, Encoding(tokenizer, max_length, mask_prompt, chat)):
        for name, array in part.items():
            collected.setdefault(name, []).append(array)
    arrays = {name: np.concatenate(several) for name, several in collected.items()}
    return examples_of(source, objective, arrays)


def examples_of(source: Source, objective: Objective[Any], arrays: dict[str, npt.NDArray[Any]]) -> Examples:
    """Examples from the concatenated arrays of `arrays_of`."""
    of_chats: dict[str, Any] = {name: arrays[name] for name in CHAT_ARRAYS if name in arrays}
    return Examples(
        source.name,
        ids=arrays["ids"],
        types=arrays.get("types"),
        offsets=arrays["offsets"],
        targets=arrays["targets"],
        lines=arrays["lines"],
        cut=arrays["cut"],
        doubled=arrays["doubled"],
        lost_words=arrays["lost_words"],
        **of_chats,
        own_special=objective.per_token and not objective.labelled,
        per_token=objective.per_token,
        files=source.files,
        firsts=arrays.get("firsts"),
        labels=arrays.get("labels"),
    )


def arrays_of(
    source: Source, objective: Objective[Any], how: Encoding
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The arrays of Examples in pieces, to be concatenated by name. Raises DataError for a row without a token."""
    total, dtype, dropped = 0, id_type(how.tokenizer), list[tuple[int, Untrained]]()
    yield {"offsets": np.zeros(1, dtype=np.int64)}
    for every in _chunks(source.rows):
        found = encoded(source, every, objective, how)
        chunk = every if found.chat is None else [every[place] for place in found.chat.kept]
        if found.chat is not None:
            dropped += [(every[place].line, why) for place, why in found.chat.dropped]
            yield _chat_arrays(every, found.chat)
        if not chunk:
            continue
        lengths = np.asarray([len(ids) for ids in found.ids], dtype=np.int64)
        if not lengths.all():
            raise _no_token(source, chunk[int(np.argmin(lengths))].line)
        part: dict[str, npt.NDArray[Any]] = {
            "ids": narrowed(np.concatenate(found.ids), dtype),
            "offsets": total + np.cumsum(lengths),
            "targets": _targets(found),
            "lines": np.asarray([row.line for row in chunk], dtype=np.int64),
            "cut": np.asarray(found.cut, dtype=np.int64),
            "doubled": np.asarray(found.doubled, dtype=np.int8),
            "lost_words": np.asarray(found.lost_words, dtype=np.int32),
        }
        if found.answers is not None:
            part["firsts"] = np.asarray(found.answers.firsts, dtype=np.int64)
            part["labels"] = np.asarray(found.answers.labels, dtype=np.float32)
        if found.types is not None:
            part["types"] = np.concatenate(found.types).astype(np.int8)
        total += int(lengths.sum())
        yield part
    if how.chat is not None and not total:
        raise _nothing_trained(source, dropped, how.chat.train, how.max_length)


def encoded(source: Source, rows: list[Row], objective: Objective[Any], how: Encoding) -> Encoded:
    """`encode`, with the place of a conversation that cannot be learned. Raises DataError."""
    try:
        return encode(rows, objective, how)
    except RowChatError as error:
        file, line = source.place(error.row.line)
        raise DataError(
            f"{file}, row {line}: {error}", FaultPlace(field=source.field, file=file, row=line)
        ) from error


def _chat_arrays(rows: list[Row], found: ChatCounts) -> dict[str, npt.NDArray[Any]]:
    def lines(places: list[int]) -> npt.NDArray[np.int64]:
        return np.asarray([rows[place].line for place in places], dtype=np.int64)

    return {
        "untrained": lines([place for place, _ in found.dropped]),
        "untrained_why": np.asarray([why for _, why in found.dropped], dtype=np.int8),
        "cut_turns": np.asarray(found.cut_turns, dtype=np.int32),
        "control_tokens": np.asarray(found.control_tokens, dtype=np.int32),
        "omitted": lines(found.omitted),
        "greetings": lines(found.greetings),
        "unanswered": lines(found.unanswered),
        "ignored": lines(found.ignored),
        "stops": np.asarray(found.stops, dtype=np.int64),
        "turns_inside": np.asarray([found.inside], dtype=np.int64),
        "dated": np.asarray([found.dated], dtype=np.int8),
    }


def _nothing_trained(
    source: Source, dropped: list[tuple[int, Untrained]], train: TrainedTurns, max_length: int
) -> DataError:
    """With the reason that most conversations have, and the first of these."""
    reasons = Counter(why for _, why in dropped)
    why, count = reasons.most_common(1)[0]
    file, row = source.place(next(line for line, reason in dropped if reason is why))
    return DataError(
        f"{source.field}: nothing of the {len(dropped):,} conversations is learned: {count:,}"
        f" {why_untrained(why, max_length)}; the first is {file}, row {row}; {_remedy(why, train)}",
        FaultPlace(field=source.field, file=file, row=row),
    )


def why_untrained(why: Untrained, max_length: int) -> str:
    """The end of a sentence about some conversations."""
    match why:
        case Untrained.NO_ANSWER:
            return "have no message of the assistant"
        case Untrained.EXCLUDED:
            return "have train: false or weight: 0 in what would be learned"
        case Untrained.UNASKED:
            return "have no question before what the assistant says"
        case Untrained.CUT:
            return f"lose at {max_length:,} tokens what would be learned"
        case _:
            assert_never(why)


def _remedy(why: Untrained, train: TrainedTurns) -> str:
    match why:
        case Untrained.NO_ANSWER:
            return "write answers with the role assistant"
        case Untrained.EXCLUDED:
            earlier = ", or set objective.causalLM.train: Assistant to learn earlier answers"
            last = train is TrainedTurns.LAST_TURN
            return f"remove it where an answer is to be learned{earlier if last else ''}"
        case Untrained.UNASKED:
            return "write a user message before it, or train: true in it to learn it without one"
        case Untrained.CUT:
            return "raise dataset.preprocessing.maxLength, or shorten what stands before it"
        case _:
            assert_never(why)


def id_type(tokenizer: Any) -> Any:
    """The type for token ids: it follows the largest id, as a pruned vocabulary has few entries and large ids."""
    return (
        np.uint16 if max(tokenizer.get_vocab().values(), default=0) <= np.iinfo(np.uint16).max else np.int32
    )


def narrowed(ids: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    """The ids in a smaller type, if it holds them all. Raises ConfigurationError for an id outside the vocabulary."""
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) <= np.iinfo(dtype).max:
        raise ConfigurationError(
            f"the tokenizer gives the token id {int(ids.max())}, which is not in its vocabulary; check its"
            " post-processor in tokenizer.json",
            FaultPlace(field="model.tokenizer"),
        )
    return ids.astype(dtype)


def _no_token(source: Source, line: int) -> DataError:
    file, row = source.place(line)
    return DataError(
        f"{file}, row {row} has no token: the tokenizer finds none in its text and adds none; remove the row,"
        " or raise dataset.preprocessing.minCharacters",
        FaultPlace(field=source.field, file=file, row=row),
    )


def _targets(found: Encoded) -> npt.NDArray[Any]:
    if isinstance(found.targets, list):
        return np.concatenate(found.targets).astype(np.int32)
    return found.targets


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    characters = 0
    for row in rows:
        size = len(row.text) if isinstance(row.text, str) else sum(map(len, row.text))
        size += len(row.pair or "") + len(row.rejected or "")
        if chunk and (len(chunk) == CHUNK_ROWS or characters + size > CHUNK_CHARACTERS):
            yield chunk
            chunk, characters = [], 0
        chunk.append(row)
        characters += size
    if chunk:
        yield chunk
