"""Whether a model can learn tokenized rows: what only their tokens show."""

from typing import Any

import numpy as np

from finetune_api.run import FaultPlace
from finetune_trainer.data.tokens import Examples
from finetune_trainer.errors import DataError
from finetune_trainer.objectives.base import IGNORED

CHUNK = 1 << 20
"""Targets looked at at once, as they may be a mapped file of many gigabytes."""


def check_learnable(model: Any, parts: list[Examples], *, headed: bool) -> None:
    """Raise DataError for rows that a model cannot learn; the training rows come first."""
    _check_targets(parts[0])
    if model.config.is_encoder_decoder and not headed and not parts[0].per_token:
        for part in parts:
            _check_ends(model, part)


def _check_targets(train: Examples) -> None:
    """Some token of the training rows is to be predicted."""
    targets = train.targets
    if not train.per_token or any(
        (targets[start : start + CHUNK] != IGNORED).any() for start in range(0, len(targets), CHUNK)
    ):
        return
    raise DataError(
        f"{train.name}: no token of the training rows is to be predicted; the tokenizer finds none in their words, or"
        " prompts alone fill dataset.preprocessing.maxLength",
        FaultPlace(field="dataset.train", file=train.name),
    )


def _check_ends(model: Any, examples: Examples) -> None:
    """Each text has one end token, where the heads of BART, T5 and other models with encoder and decoder read."""
    counts = np.add.reduceat(examples.ids == model.config.eos_token_id, examples.offsets[:-1], dtype=np.int64)
    wrong = np.flatnonzero(counts != 1)
    if len(wrong):
        row = int(wrong[0])
        line = int(examples.lines[row])
        raise DataError(
            f"{examples.name}, row {line} has {counts[row]} end tokens, and {type(model).__name__} reads its answer at"
            " the only one: remove the token from the text, or set model.head: {}",
            FaultPlace(file=examples.name, row=line),
        )
