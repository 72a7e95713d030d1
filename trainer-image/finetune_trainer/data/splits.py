"""Splits rows into training and validation: at random, with the labels' proportions, or by group."""

import numpy as np
import numpy.typing as npt

from finetune_api.run import FaultPlace, ValidationSplit
from finetune_trainer.data.sources import FileIndex, Indices
from finetune_trainer.errors import DataError
from finetune_trainer.objectives.labels import named

FIELD = "dataset.validation"
"""As a FineTuneJob names it; in a run.json it is dataset.split."""


def split_rows(
    rows: FileIndex, split: ValidationSplit, seed: int, classification: bool
) -> tuple[FileIndex, FileIndex, str]:
    """Training rows, validation rows, and how they were divided. A function of rows, split and seed.

    Raises DataError when one side would be empty, or when `stratify: true` cannot be met.
    """
    if len(rows) < 2:
        raise DataError("one row cannot be split into training and validation rows", FaultPlace(field=FIELD))
    if split.group_by:
        train, held_out = _by_group(rows, split, seed)
        how = f"by groups of {split.group_by} ({len(held_out) / len(rows):.1%} held out, {split.fraction:.1%} wanted)"
    elif classification and split.stratify is not False:
        train, held_out, how = _by_label(rows, split, seed)
    else:
        train, held_out = _at_random(len(rows), split.fraction, seed)
        how = "at random"
    return rows.take(np.sort(train)), rows.take(np.sort(held_out)), how


def _at_random(count: int, fraction: float, seed: int) -> tuple[Indices, Indices]:
    held = min(max(1, round(count * fraction)), count - 1)
    order = np.random.default_rng(seed).permutation(count)
    return order[held:], order[:held]


def _in_proportion(
    strata: npt.NDArray[np.int64], names: list[str], fraction: float, seed: int
) -> tuple[Indices, Indices]:
    """As many rows of every stratum as its share asks for, by largest remainder; scikit-learn takes a second to import.

    Raises ValueError when a stratum, one of `names`, has one row only, or a side has too few for one of each.
    """
    present, members, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    count = len(strata)
    held = min(max(1, round(count * fraction)), count - 1)
    if sizes.min() < 2:
        raise ValueError(_alone([names[place] for place in present[sizes < 2]]))
    if min(held, count - held) < len(sizes):
        raise ValueError(f"{min(held, count - held)} rows on one side are too few for {len(sizes)} labels")
    exact = sizes * held / count
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: held - quota.sum()]] += 1
    order = np.random.default_rng(seed).permutation(count)
    sorted_order = order[np.argsort(members[order], kind="stable")]
    rank = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = rank < np.repeat(quota, sizes)
    return sorted_order[~chosen], sorted_order[chosen]


def _alone(names: list[str]) -> str:
    if len(names) == 1:
        return f"the label {names[0]!r} has one row only"
    return f"the labels {named(names)} have one row each"


def _by_label(rows: FileIndex, split: ValidationSplit, seed: int) -> tuple[Indices, Indices, str]:
    strata, why = rows.labels.strata(), "a row may have several labels"
    if strata is not None:
        try:
            return *_in_proportion(
                strata, rows.labels.names, split.fraction, seed
            ), "with the labels' proportions"
        except ValueError as error:
            why = str(error)
    if split.stratify:
        raise DataError(
            f"the labels' proportions cannot be kept: {why}; remove stratify, or give more rows",
            FaultPlace(field=f"{FIELD}.stratify"),
        )
    return *_at_random(len(rows), split.fraction, seed), f"at random, as {why}"


def _by_group(rows: FileIndex, split: ValidationSplit, seed: int) -> tuple[Indices, Indices]:
    assert rows.groups is not None
    names, members, sizes = np.unique(rows.groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise DataError(
            f"groupBy: all rows have the same value of {split.group_by}; a split needs at least two groups",
            FaultPlace(field=f"{FIELD}.groupBy"),
        )
    held_out = np.isin(members, _groups_for(sizes, split.fraction, seed))
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _groups_for(sizes: Indices, fraction: float, seed: int) -> list[int]:
    """Groups in random order that together hold as near to `fraction` of the rows as they can without more.

    Where every group is larger than that, the smallest one.
    """
    room = max(1, round(int(sizes.sum()) * fraction))
    chosen: list[int] = []
    for group in np.random.default_rng(seed).permutation(len(sizes)).tolist():
        if sizes[group] <= room and len(chosen) < len(sizes) - 1:
            chosen.append(group)
            room -= int(sizes[group])
        if not room:
            break
    return chosen or [int(np.argmin(sizes))]
