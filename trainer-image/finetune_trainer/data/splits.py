"""Splits rows into training and validation: at random, with the labels' proportions, or by group.

Called by `dataset`; pure.
"""

from collections.abc import Sequence

from finetune_api.run import FaultPlace, ValidationSplit
from finetune_trainer.data.rows import Row
from finetune_trainer.errors import DataError
from finetune_trainer.objectives.base import Label

FIELD = "dataset.validation"
"""As a FineTuneJob names it; in a run.json it is dataset.split."""


def split_rows(
    rows: Sequence[Row], split: ValidationSplit, seed: int, classification: bool
) -> tuple[list[Row], list[Row], str]:
    """Training rows, validation rows, and how they were divided. A function of rows, split and seed.

    Raises DataError when one side would be empty, or when `stratify: true` cannot be met.
    """
    if len(rows) < 2:
        raise DataError("one row cannot be split into training and validation rows", FaultPlace(field=FIELD))
    if split.group_by:
        train, held_out = _by_group(rows, split.fraction, seed)
        how = f"by groups of {split.group_by}"
    elif classification and split.stratify is not False:
        train, held_out, how = _by_label(rows, split, seed)
    else:
        train, held_out = _at_random(rows, split.fraction, seed, None)
        how = "at random"
    return [rows[i] for i in sorted(train)], [rows[i] for i in sorted(held_out)], how


def _at_random(
    rows: Sequence[Row], fraction: float, seed: int, labels: list[Label] | None
) -> tuple[list[int], list[int]]:
    from sklearn.model_selection import train_test_split

    held = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    train, held_out = train_test_split(range(len(rows)), test_size=held, random_state=seed, stratify=labels)
    return list(train), list(held_out)


def _by_label(rows: Sequence[Row], split: ValidationSplit, seed: int) -> tuple[list[int], list[int], str]:
    try:
        train, held_out = _at_random(rows, split.fraction, seed, [row.label for row in rows])
    except ValueError as error:
        if split.stratify:
            raise DataError(
                f"the labels' proportions cannot be kept: {error}; remove stratify, or give more rows",
                FaultPlace(field=f"{FIELD}.stratify"),
            ) from error
        return *_at_random(rows, split.fraction, seed, None), "at random, as some label is too rare"
    return train, held_out, "with the labels' proportions"


def _by_group(rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    from sklearn.model_selection import GroupShuffleSplit

    groups = [row.group for row in rows]
    number = len(set(groups))
    if number < 2:
        raise DataError(
            f"groupBy: all rows have the same value {groups[0]!r}; a split needs at least two groups",
            FaultPlace(field=f"{FIELD}.groupBy"),
        )
    held = min(max(1, round(number * fraction)), number - 1)
    splitter = GroupShuffleSplit(n_splits=1, test_size=held, random_state=seed)
    train, held_out = next(splitter.split(rows, groups=groups))
    return [int(i) for i in train], [int(i) for i in held_out]
