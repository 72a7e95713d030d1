"""Turns rows into token ids, kept in flat arrays. Called by `run` with the tokenizer of `model`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.sources import Source
from finetune_trainer.objectives import Objective

CHUNK = 1024


@dataclass(frozen=True)
class Examples:
    """Tokenized rows: example i has the tokens offsets[i] to offsets[i+1]."""

    name: str
    ids: npt.NDArray[np.int32]
    types: npt.NDArray[np.int8] | None
    """Token type ids, where the model knows them."""
    offsets: npt.NDArray[np.int64]
    targets: npt.NDArray[Any]
    lines: npt.NDArray[np.int64]
    """Line of each row in its file, for messages."""

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of every example."""
        return np.diff(self.offsets)


def tokenize(source: Source, objective: Objective[Any], tokenizer: Any, max_length: int) -> Examples:
    """Tokenize all rows of a source with special tokens, cut to `max_length`, without padding."""
    encoded = list(_chunks(source, tokenizer, max_length))
    ids = [np.asarray(row, dtype=np.int32) for chunk in encoded for row in chunk["input_ids"]]
    types = [np.asarray(row, dtype=np.int8) for chunk in encoded for row in chunk.get("token_type_ids") or ()]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    return Examples(
        name=source.name,
        ids=np.concatenate(ids),
        types=np.concatenate(types) if types else None,
        offsets=offsets,
        targets=objective.encode([row.label for row in source.rows]),
        lines=np.asarray([row.line for row in source.rows], dtype=np.int64),
    )


def _chunks(source: Source, tokenizer: Any, max_length: int) -> Iterator[dict[str, Any]]:
    for start in range(0, len(source.rows), CHUNK):
        rows = source.rows[start : start + CHUNK]
        pairs = [row.pair for row in rows]
        yield tokenizer(
            [row.text for row in rows],
            None if pairs[0] is None else pairs,
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
        )
