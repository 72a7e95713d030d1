"""Splits rows into training and validation: at random, with the labels' proportions, or by group.

Called by `dataset`; pure. Rows are told apart by number, so that a split costs a few bytes a row.
"""

import numpy as np
import numpy.typing as npt

from finetune_api.run import FaultPlace, ValidationSplit
from finetune_trainer.data.sources import Indices, Scan
from finetune_trainer.errors import DataError

FIELD = "dataset.validation"
"""As a FineTuneJob names it; in a run.json it is dataset.split."""


def split_rows(rows: Scan, split: ValidationSplit, seed: int, classification: bool) -> tuple[Scan, Scan, str]:
    """Training rows, validation rows, and how they were divided. A function of rows, split and seed.

    Raises DataError when one side would be empty, or when `stratify: true` cannot be met.
    """
    if len(rows) < 2:
        raise DataError("one row cannot be split into training and validation rows", FaultPlace(field=FIELD))
    if split.group_by:
        train, held_out = _by_group(rows, split, seed)
        how = f"by groups of {split.group_by}"
    elif classification and split.stratify is not False:
        train, held_out, how = _by_label(rows, split, seed)
    else:
        train, held_out = _at_random(len(rows), split.fraction, seed, None)
        how = "at random"
    return rows.take(np.sort(train)), rows.take(np.sort(held_out)), how


def _at_random(
    count: int, fraction: float, seed: int, strata: npt.NDArray[np.int64] | None
) -> tuple[Indices, Indices]:
    from sklearn.model_selection import train_test_split

    held = min(max(1, round(count * fraction)), count - 1)
    train, held_out = train_test_split(np.arange(count), test_size=held, random_state=seed, stratify=strata)
    return train, held_out


def _by_label(rows: Scan, split: ValidationSplit, seed: int) -> tuple[Indices, Indices, str]:
    strata, why = rows.labels.strata(), "a row may have several labels"
    if strata is not None:
        try:
            return *_at_random(len(rows), split.fraction, seed, strata), "with the labels' proportions"
        except ValueError as error:
            why = f"some label is too rare ({error})"
    if split.stratify:
        raise DataError(
            f"the labels' proportions cannot be kept: {why}; remove stratify, or give more rows",
            FaultPlace(field=f"{FIELD}.stratify"),
        )
    return *_at_random(len(rows), split.fraction, seed, None), f"at random, as {why.partition(' (')[0]}"


def _by_group(rows: Scan, split: ValidationSplit, seed: int) -> tuple[Indices, Indices]:
    from sklearn.model_selection import GroupShuffleSplit

    assert rows.groups is not None
    number = len(np.unique(rows.groups))
    if number < 2:
        raise DataError(
            f"groupBy: all rows have the same value of {split.group_by}; a split needs at least two groups",
            FaultPlace(field=f"{FIELD}.groupBy"),
        )
    held = min(max(1, round(number * split.fraction)), number - 1)
    splitter = GroupShuffleSplit(n_splits=1, test_size=held, random_state=seed)
    train, held_out = next(splitter.split(rows.groups, groups=rows.groups))
    return train, held_out
