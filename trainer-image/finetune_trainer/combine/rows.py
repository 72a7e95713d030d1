"""The rows on which members and combination are evaluated, and their objective."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from finetune_api.combine import CombineConfig
from finetune_api.objective import ClassWeights
from finetune_trainer.combine.members import Member
from finetune_trainer.data.dataset import label_lists, label_numbers
from finetune_trainer.data.deduplicate import Deduplicator
from finetune_trainer.data.rows import ReadOptions
from finetune_trainer.data.sources import Source, scan
from finetune_trainer.objectives import OBJECTIVES, Objective

logger = logging.getLogger(__name__)

NOTHING_PUBLISHED = "; nothing was published"
"""Ends the sentence of a stop."""
PREFIXES = {"validation": "eval", "test": "test"}
"""Of the metrics, by the part of the data set."""


def objective_of(config: CombineConfig, member: Member) -> Objective[Any]:
    """The members' objective, in original units and without class weights: these are of training rows, unknown here."""
    options = getattr(config.objective, config.objective.kind)
    neutral = {"class_weights": ClassWeights.NONE, "normalize": False}
    options = options.model_copy(
        update={name: value for name, value in neutral.items() if name in type(options).model_fields}
    )
    labels = member.outputs if _labelled(config) else None
    return OBJECTIVES[config.objective.kind].build(options, labels, [])


def read_rows(config: CombineConfig, member: Member, check: Callable[[], None]) -> dict[str, Source]:
    """The rows by the prefix of their metrics; those with labels that the members do not know are invalid.

    Raises what `scan` raises.
    """
    spec, kind = config.dataset, OBJECTIVES[config.objective.kind]
    options = getattr(config.objective, config.objective.kind)
    labels = member.outputs if _labelled(config) else None
    reading = ReadOptions(
        columns=spec.columns,
        preprocessing=spec.preprocessing,
        max_invalid_rows=spec.max_invalid_rows,
        read_label=partial(kind.read_label, options, labels=labels),
        per_token=kind.per_token,
        labelled=kind.labelled,
        label_lists=label_lists(config.objective),
        label_numbers=label_numbers(config.objective),
    )
    duplicates, found = Deduplicator(spec.preprocessing.deduplicate), {}
    for part, prefix in PREFIXES.items():
        data = getattr(spec, part)
        if data is not None:
            rows = scan(f"dataset.{part}", data, reading, duplicates, check)
            logger.info(f"{part}: {len(rows)} rows of {rows.name}")
            found[prefix] = rows.source
    return found


def _labelled(config: CombineConfig) -> bool:
    return config.objective.kind in ("classification", "token_classification")
