"""The data of a run: training, validation and test rows, and the objective they define.

Called by `run`, before torch is imported.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from finetune_api.run import DataInput, DatasetInput, RunConfig, ValidationSplit
from finetune_api.status import ResolvedData
from finetune_trainer.data.rows import Reading, Row
from finetune_trainer.data.sources import Source, read_source
from finetune_trainer.data.splits import split_rows
from finetune_trainer.objectives import OBJECTIVES, Objective
from finetune_trainer.report import Reporter


@dataclass(frozen=True)
class Dataset:
    """The rows of a run; `resolved` has an entry for each part that is there."""

    train: Source
    validation: Source
    test: Source | None
    objective: Objective[Any]

    @property
    def resolved(self) -> dict[str, ResolvedData]:
        """What was found in the files, by part."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part.resolved for name, part in parts.items() if part is not None}


def read_dataset(config: RunConfig, reporter: Reporter) -> Dataset:
    """Read, clean, deduplicate and split, training rows first. Raises what `read_source` and `split_rows` raise."""
    spec, seen = config.dataset, set[int]()
    kind = OBJECTIVES[config.objective.kind]
    options = getattr(config.objective, config.objective.kind)
    split = None if spec.validation else spec.split or ValidationSplit()
    reading = Reading(
        columns=spec.columns,
        preprocessing=spec.preprocessing,
        max_invalid_rows=spec.max_invalid_rows,
        read_label=partial(kind.read_label, options, labels=kind.fixed_labels(options)),
        group_by=split.group_by if split else None,
        per_token=kind.per_token,
        labelled=kind.labelled,
        label_lists=_label_lists(config),
    )
    train = read_source("dataset.train", spec.train, reading, seen)
    labels = kind.found_labels(options, [row.label for row in train.rows], train.name)
    later = replace(reading, read_label=partial(kind.read_label, options, labels=labels), group_by=None)
    if split:
        train, validation = _hold_out(train, split, config, reporter)
    else:
        validation = _required("dataset.validation", spec.validation, later, seen)
    test = read_source("dataset.test", spec.test, later, seen) if spec.test else None
    objective = kind.build(options, labels, [row.label for row in train.rows])
    _say(reporter, spec, train, validation, test)
    return Dataset(train, validation, test, objective)


def _label_lists(config: RunConfig) -> bool:
    objective = config.objective
    return bool(
        objective.token_classification
        or (objective.classification and objective.classification.multi_label)
        or (objective.regression and objective.regression.targets > 1)
    )


def _required(field: str, data: DataInput | None, reading: Reading, seen: set[int]) -> Source:
    assert data is not None
    return read_source(field, data, reading, seen)


def _hold_out(
    source: Source, split: ValidationSplit, config: RunConfig, reporter: Reporter
) -> tuple[Source, Source]:
    classification = config.objective.kind == "classification"
    train, held_out, how = split_rows(source.rows, split, config.training.seed, classification)
    reporter.say(f"split {source.name} {how}: {len(train)} training and {len(held_out)} validation rows")
    held = ResolvedData(uri=source.resolved.uri, digest=source.resolved.digest, rows=len(held_out))
    return (
        replace(source, rows=train, resolved=source.resolved.model_copy(update={"rows": len(train)})),
        Source("dataset.validation", source.name, held_out, held),
    )


def _say(
    reporter: Reporter, spec: DatasetInput, train: Source, validation: Source, test: Source | None
) -> None:
    parts = [("training", train), ("validation", validation), ("test", test)]
    for name, source in parts:
        if source is not None:
            found = source.resolved
            left_out = f"{found.invalid_rows or 0} invalid, {found.duplicate_rows or 0} repeated"
            reporter.say(f"{name}: {len(source.rows)} rows of {source.name} ({left_out} rows left out)")
    shared = shared_texts(train.rows, validation.rows)
    if shared:
        reporter.say(
            f"{shared} of {len(validation.rows)} validation texts also stand in the training rows, which makes"
            " the evaluation look better than it is; set dataset.preprocessing.deduplicate: Exact",
            level="warning",
        )


def shared_texts(train: list[Row], held_out: list[Row]) -> int:
    """How many held-out rows have a text that stands in the training rows."""
    known = {row.digest() for row in train}
    return sum(row.digest() in known for row in held_out)
