"""Checks that need tokens: whether a model can learn from tokenized rows."""

from typing import Any

import numpy as np

from finetune_api.run import FaultPlace
from finetune_trainer.data.tokens import Examples
from finetune_trainer.errors import DataError
from finetune_trainer.objectives.base import IGNORED

CHUNK = 1 << 20
"""Targets checked at once; they may be a memory-mapped file of many gigabytes."""


def check_learnable(model: Any, parts: list[Examples], *, headed: bool, paired: bool) -> None:
    """Raise DataError for rows that a model cannot learn; the training rows come first.

    `paired` says that a row's two answers are compared with each other.
    """
    _check_targets(parts[0])
    if paired:
        _check_different(parts[0])
    for part in parts:
        if part.firsts is not None:
            _check_answers(part)
    if model.config.is_encoder_decoder and not headed and not parts[0].per_token:
        for part in parts:
            _check_ends(model, part)


def _check_targets(train: Examples) -> None:
    """At least one token of the training rows has a target."""
    targets = train.targets
    if not train.per_token or any(
        (targets[start : start + CHUNK] != IGNORED).any() for start in range(0, len(targets), CHUNK)
    ):
        return
    cut = np.flatnonzero(train.cut)
    file, line = train.place(int(cut[0]) if len(cut) else 0)
    why = (
        "is cut before its first one; raise dataset.preprocessing.maxLength, or shorten the prompts"
        if len(cut)
        else "has no word in which the tokenizer finds a token; check the rows"
    )
    raise DataError(
        f"{train.name}: no token of the training rows has a target: {file}, row {line} {why}",
        FaultPlace(field="dataset.train", file=file, row=line),
    )


def _check_answers(examples: Examples) -> None:
    """Every answer has a token to predict."""
    assert examples.firsts is not None
    ends = np.stack([examples.offsets[:-1] + examples.firsts, examples.offsets[1:]], axis=1).ravel()
    counted = np.concatenate([[0], np.cumsum(examples.targets != IGNORED)])[ends]
    few = np.flatnonzero(np.diff(counted, prepend=0) == 0)
    if len(few):
        file, line = examples.place(int(few[0]) // 2)
        raise DataError(
            f"{file}, row {line} has an answer without a token to predict; remove the row, or give it a prompt",
            FaultPlace(file=file, row=line),
        )


def _check_different(train: Examples) -> None:
    """Some pair has two answers that differ."""
    same = same_answers(train)
    if len(same) == len(train):
        file, line = train.place(same[0])
        raise DataError(described_same(train, same), FaultPlace(field="dataset.train", file=file, row=line))


def same_answers(examples: Examples) -> list[int]:
    """Pairs whose answers have the same tokens."""
    if examples.firsts is None:
        return []
    halves = np.flatnonzero(2 * examples.firsts == examples.lengths)
    starts, sizes, ids = examples.offsets, examples.firsts, examples.ids
    return [
        row
        for row in halves.tolist()
        if np.array_equal(
            ids[starts[row] : starts[row] + sizes[row]], ids[starts[row] + sizes[row] : starts[row + 1]]
        )
    ]


def described_same(examples: Examples, same: list[int]) -> str:
    """A sentence about such pairs, with the first of them and a remedy."""
    cut = bool((examples.cut[same] > 0).any())
    remedy = "raise dataset.preprocessing.maxLength, or remove the rows" if cut else "remove the rows"
    file, line = examples.place(same[0])
    return (
        f"{len(same):,} of {len(examples):,} pairs have the same tokens in both answers"
        f"{' after truncation' if cut else ''}, and neither is preferred; the first is {file}, row {line}; {remedy}"
    )


def _check_ends(model: Any, examples: Examples) -> None:
    """Each text has one end token, where the heads of BART, T5 and other models with encoder and decoder read."""
    counts = np.add.reduceat(examples.ids == model.config.eos_token_id, examples.offsets[:-1], dtype=np.int64)
    wrong = np.flatnonzero(counts != 1)
    if len(wrong):
        row = int(wrong[0])
        file, line = examples.place(row)
        raise DataError(
            f"{file}, row {line} has {counts[row]} end tokens, but {type(model).__name__} predicts at"
            " exactly one: remove the token from the text, or set model.head: {}",
            FaultPlace(file=file, row=line),
        )
