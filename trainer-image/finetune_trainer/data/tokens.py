"""Tokenized rows, kept in flat arrays."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_api.run import FaultPlace
from finetune_trainer.data.encoding import Encoded, Encoding, encode
from finetune_trainer.data.files import place_of
from finetune_trainer.data.rows import Row
from finetune_trainer.data.sources import Source
from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.objectives import Objective

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
    own_special: bool = False
    """Special tokens of the text stand in place of the tokenizer's own."""
    per_token: bool = False
    files: tuple[str, ...] = ()
    """Names of the files that the rows are from, where there are several."""
    packed_to: int | None = None
    """Tokens of a sequence that several examples share; None if each has a separate one."""

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> tuple[str, int]:
        """The file of an example, and its row there."""
        return place_of(int(self.lines[row]), self.name, self.files)

    @property
    def digest(self) -> str:
        """sha256 of the rows' numbers and tokens."""
        parts = (self.lines, self.offsets, self.ids, self.types)
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
    source: Source, objective: Objective[Any], tokenizer: Any, max_length: int, mask_prompt: bool = True
) -> Examples:
    """Tokenize all rows of a source in memory; `cache.tokenized` does the same in files."""
    collected: dict[str, list[npt.NDArray[Any]]] = {}
    for part in arrays_of(source, objective, Encoding(tokenizer, max_length, mask_prompt)):
        for name, array in part.items():
            collected.setdefault(name, []).append(array)
    arrays = {name: np.concatenate(several) for name, several in collected.items()}
    return examples_of(source, objective, arrays)


def examples_of(source: Source, objective: Objective[Any], arrays: dict[str, npt.NDArray[Any]]) -> Examples:
    """Examples from the concatenated arrays of `arrays_of`."""
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
        own_special=objective.per_token and not objective.labelled,
        per_token=objective.per_token,
        files=source.files,
    )


def arrays_of(
    source: Source, objective: Objective[Any], how: Encoding
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The arrays of Examples in pieces, to be concatenated by name. Raises DataError for a row without a token."""
    total, dtype = 0, id_type(how.tokenizer)
    yield {"offsets": np.zeros(1, dtype=np.int64)}
    for chunk in _chunks(source.rows):
        found = encode(chunk, objective, how)
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
        if found.types is not None:
            part["types"] = np.concatenate(found.types).astype(np.int8)
        total += int(lengths.sum())
        yield part


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
        size = (len(row.text) if isinstance(row.text, str) else sum(map(len, row.text))) + len(row.pair or "")
        if chunk and (len(chunk) == CHUNK_ROWS or characters + size > CHUNK_CHARACTERS):
            yield chunk
            chunk, characters = [], 0
        chunk.append(row)
        characters += size
    if chunk:
        yield chunk
