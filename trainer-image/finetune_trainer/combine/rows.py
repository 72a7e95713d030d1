"""The rows on which members and combination are evaluated, the members' training rows, and their objective."""

import logging
from collections.abc import Callable
from typing import Any

from finetune_api.combine import CombineConfig
from finetune_api.objective import ClassWeights
from finetune_trainer.combine.members import Member
from finetune_trainer.data.dataset import hold_out, read_options
from finetune_trainer.data.deduplicate import Deduplicator
from finetune_trainer.data.sources import FileIndex, scan
from finetune_trainer.objectives import OBJECTIVES, Objective

logger = logging.getLogger(__name__)

NOTHING_PUBLISHED = "; nothing was published"
"""Ends the sentence of a stop."""
PREFIXES = {"validation": "eval", "test": "test"}
"""Of the metrics, by the part of the data set that they are measured on."""


def objective_of(config: CombineConfig, member: Member) -> Objective[Any]:
    """The members' objective, in original units and without class weights: these are of training rows, unknown here."""
    options = getattr(config.objective, config.objective.kind)
    neutral = {"class_weights": ClassWeights.NONE, "normalize": False}
    options = options.model_copy(
        update={name: value for name, value in neutral.items() if name in type(options).model_fields}
    )
    labels = member.outputs if labelled(config) else None
    return OBJECTIVES[config.objective.kind].build(options, labels, [])


def read_rows(config: CombineConfig, member: Member, check: Callable[[], None]) -> dict[str, FileIndex]:
    """The rows by the part of the data set, read and split as in training.

    Those with labels that the members do not know are invalid. Raises what `scan` and `hold_out` raise.
    """
    spec, split = config.dataset, config.dataset.split
    labels = member.outputs if labelled(config) else None
    duplicates, found = Deduplicator(spec.preprocessing.deduplicate), dict[str, FileIndex]()
    for part in ("train", *PREFIXES):
        data = getattr(spec, part)
        if data is not None:
            reading = read_options(spec, config.objective, labels, split if part == "train" else None)
            found[part] = scan(f"dataset.{part}", data, reading, duplicates, check, list(found.values()))
        if part == "train" and split is not None:
            assert split.seed is not None
            halves = hold_out(found["train"], split, split.seed, config.objective)
            found["train"], found["validation"] = halves
    for part, rows in found.items():
        logger.info(f"{part}: {len(rows)} rows of {rows.name}")
    return found


def labelled(config: CombineConfig) -> bool:
    """Whether outputs are labels with a name."""
    return config.objective.kind in ("classification", "token_classification")
