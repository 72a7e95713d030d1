"""Whether the rows of the evaluation are new to every member: what each recorded of the rows it read. Pure."""

import logging
from collections.abc import Mapping

from finetune_api.combine import CombineConfig
from finetune_api.run import FaultPlace, ValidationSplit
from finetune_api.status import ResolvedData
from finetune_trainer.combine.members import Member
from finetune_trainer.combine.rows import PREFIXES
from finetune_trainer.errors import ConfigurationError

logger = logging.getLogger(__name__)


def check_held_out(config: CombineConfig, members: list[Member], found: Mapping[str, ResolvedData]) -> None:
    """Raise ConfigurationError for a member that was trained on rows that others are evaluated on.

    `found` are the rows by the part of the data set.
    """
    if "train" not in found:
        logger.warning(
            "dataset.train is not given, so it is not known whether texts of the evaluation also stand in the training"
            " rows of the members"
        )
    for member in members:
        reason = _trained_on(config, member, found)
        if reason:
            raise ConfigurationError(
                f"{member.field}: {member.name} was trained on rows that others are evaluated on: {reason}",
                FaultPlace(field=member.field, file=member.name),
            )
        own = member.training.resolved.train
        if own is not None and "train" in found and own.digest != found["train"].digest:
            logger.warning(f"{member.field}: {member.name} was trained on another file than dataset.train")


def _trained_on(config: CombineConfig, member: Member, found: Mapping[str, ResolvedData]) -> str | None:
    """Why a member was, or may have been; None for one that held them all out."""
    train, split = member.training.resolved.train, config.dataset.split
    files = [part for part in PREFIXES if part in found and not (split and part == "validation")]
    for part in files:
        if train is not None and train.digest == found[part].digest:
            return f"dataset.{part} is its training file; give other rows"
    if split is None:
        return None
    held_out, own = found["validation"], member.training.resolved.validation
    if own is not None and own.rows_digest == held_out.rows_digest:
        return None
    if own is not None and own.rows_digest is None and _same_split(member, split, held_out):
        logger.info(
            f"{member.field}: {member.name} has no digest of the rows that it held out: an older version trained it."
            f" It read the same file and held out as many rows ({own.rows}) by the same split"
        )
        return None
    if member.training.split is None or own is None:
        return "it held out none of the training rows, as far as its run.json says; evaluate on rows in a separate file"
    differing = _differing(member.training.split, split)
    if not differing:
        return (
            f"it held out {own.rows} rows, and others {held_out.rows}, by the same split of other rows; train members"
            " on the same file with the same dataset.preprocessing.deduplicate and maxInvalidRows, or evaluate on rows"
            " in a separate file"
        )
    one, other = (_format(each, differing) for each in (member.training.split, split))
    fields = ", ".join(f"dataset.validation.{name}" for name in differing)
    return (
        f"it held out {own.rows} rows with {one}, and others {held_out.rows} rows with {other}; train members with the"
        f" same {fields}, or evaluate on rows in a separate file"
    )


def _differing(one: ValidationSplit, other: ValidationSplit) -> list[str]:
    """Fields that two splits do not have in common, as users write them."""
    left, right = (each.model_dump(by_alias=True) for each in (one, other))
    return [name for name in right if left.get(name) != right[name]]


def _format(split: ValidationSplit, names: list[str]) -> str:
    values = split.model_dump(by_alias=True)
    return ", ".join(f"{name} {'unset' if values.get(name) is None else values[name]}" for name in names)


def _same_split(member: Member, split: ValidationSplit, held_out: ResolvedData) -> bool:
    """For a member that recorded no digest of its rows: all that its record has to compare."""
    own = member.training.resolved.validation
    return (
        own is not None
        and member.training.split == split
        and (own.digest, own.rows) == (held_out.digest, held_out.rows)
    )
