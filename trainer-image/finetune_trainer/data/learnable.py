"""Checks that need tokens: whether a model can learn from tokenized rows."""

from typing import Any

import numpy as np

from finetune_api.run import FaultPlace
from finetune_trainer.data.tokens import Examples
from finetune_trainer.errors import DataError
from finetune_trainer.objectives.base import IGNORED

CHUNK = 1 << 20
"""Targets checked at once; they may be a memory-mapped file of many gigabytes."""


def check_learnable(model: Any, parts: list[Examples], *, headed: bool) -> None:
    """Raise DataError for rows that a model cannot learn; the training rows come first."""
    _check_targets(parts[0])
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
    raise DataError(
        f"{train.name}: no token of the training rows has a target; the tokenizer finds no tokens in their words, or"
        " prompts fill dataset.preprocessing.maxLength completely; check the rows, or raise maxLength",
        FaultPlace(field="dataset.train", file=train.name),
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
