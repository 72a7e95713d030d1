"""The data of a run: training, validation and test rows, and the objective they define."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from finetune_api.combine import CombineData
from finetune_api.objective import ObjectiveSpec
from finetune_api.run import DatasetInput, RunConfig, ValidationSplit
from finetune_api.status import ResolvedData
from finetune_trainer.data.chat.choice import check_alike
from finetune_trainer.data.deduplicate import Deduplicator
from finetune_trainer.data.files import splits_of
from finetune_trainer.data.rows import ReadLabel, ReadOptions
from finetune_trainer.data.sources import FileIndex, Source, contradicting, scan, shared_prompts, shared_texts
from finetune_trainer.data.splits import split_rows
from finetune_trainer.errors import DataError
from finetune_trainer.objectives import OBJECTIVES, Objective
from finetune_trainer.objectives.base import Label
from finetune_trainer.objectives.labels import IGNORED_LABEL, UnknownLabelError, named
from finetune_trainer.objectives.lookalikes import look_alikes, missing_values, no_label, shown
from finetune_trainer.reporting.recorder import Recorder

logger = logging.getLogger(__name__)

LOOK_ALIKES_NAMED = 3
REPEATING_SHARE = 0.5
"""Share of rows from which on answers that begin with their prompt are no accident."""


@dataclass(frozen=True)
class Dataset:
    """The rows of a run; `resolved` has an entry for each part that is there."""

    train: Source
    validation: Source
    test: Source | None
    objective: Objective[Any]
    forgetting: tuple[Source, ...] = ()
    """Other rows, which are evaluated before and after training."""
    word_labels: dict[int, str] = field(default_factory=dict)
    """Labels, by their id, that words of the training rows have; none where labels are not of words."""
    leaked_rows: int = 0
    """Validation and test rows with a text that also stands in the training rows."""

    @property
    def sources(self) -> list[Source]:
        """All parts, the training rows first."""
        return [self.train, self.validation, *([self.test] if self.test else []), *self.forgetting]

    @property
    def resolved(self) -> dict[str, ResolvedData]:
        """What was found in the files, by part."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part.resolved for name, part in parts.items() if part is not None}


def read_dataset(config: RunConfig, recorder: Recorder, check: Callable[[], None] = lambda: None) -> Dataset:
    """Check, clean, deduplicate and split, training rows first; `check` is called now and then meanwhile.

    Raises what `scan` and `split_rows` raise.
    """
    spec, duplicates = config.dataset, Deduplicator(config.dataset.preprocessing.deduplicate)
    kind = OBJECTIVES[config.objective.kind]
    options = getattr(config.objective, config.objective.kind)
    split = None if spec.validation else spec.split or ValidationSplit()
    reading = read_options(spec, config.objective, kind.fixed_labels(options), split)
    whole = train = scan("dataset.train", spec.train, reading, duplicates, check)
    fixed = kind.fixed_labels(options)
    if train.layout.class_names and not fixed and not reading.label_numbers:
        options = options.model_copy(update={"labels": list(train.layout.class_names)})
    labels = _labels(kind, options, train)
    origin = "" if fixed else _origin(train)
    later = replace(reading, read_label=_read_known(kind, options, labels, origin), group_by=None)
    if split:
        seed = config.training.seed if split.seed is None else split.seed
        train, validation = hold_out(train, split, seed, config.objective)
    else:
        assert spec.validation is not None
        validation = scan("dataset.validation", spec.validation, later, duplicates, check, [train])
    before = [train, validation]
    test = scan("dataset.test", spec.test, later, duplicates, check, before) if spec.test else None
    objective = kind.build(options, labels, train.labels)
    leaked = _log_sizes(train, validation, test, recorder)
    if train.note:
        recorder.caveat(f"{train.name}: {train.note}")
    _warn_unlearned(labels or [], train, recorder)
    _warn_one_label([validation, *([test] if test else [])], recorder)
    _warn_look_alikes(labels or [], train, recorder)
    _warn_splits([train, *([] if split else [validation]), *([test] if test else [])], recorder)
    _warn_repeating([whole, *([] if split else [validation]), *([test] if test else [])], recorder)
    _warn_contradicted([whole, *([] if split else [validation]), *([test] if test else [])], recorder)
    _warn_shared_prompts(train, [validation, *([test] if test else [])], recorder)
    word_labels = _present(labels or [], train) if kind.per_token else {}
    others = tuple(
        scan(
            f"dataset.forgetting[{number}]", part, later, Deduplicator(spec.preprocessing.deduplicate), check
        ).source
        for number, part in enumerate(spec.forgetting)
    )
    found = Dataset(
        train.source, validation.source, test.source if test else None, objective, others, word_labels, leaked
    )
    if config.objective.causal_lm or config.objective.preference:
        check_alike({part.field: part.chat for part in found.sources}, config.objective.causal_lm)
    return found


def _present(labels: list[str], train: FileIndex) -> dict[int, str]:
    return {number: label for number, label in enumerate(labels) if label in train.labels.names}


def _labels(kind: type[Objective[Any]], options: Any, train: FileIndex) -> list[str] | None:
    try:
        return kind.found_labels(options, train.labels, train.name)
    except DataError as error:
        repeated = train.resolved.duplicate_rows
        if not repeated:
            raise
        message = f"{error.message}; {repeated} duplicates were dropped (dataset.preprocessing.deduplicate)"
        raise DataError(message, error.place) from error


def _origin(train: FileIndex) -> str:
    """Where the labels of a run are from, for the message of a row that has another one, with the remedy."""
    if train.layout.class_names:
        return f", the class names in the schema of {train.name}; write labels by these names"
    return f", the labels found in {train.name}; write all of them into objective's labels"


def _read_known(kind: type[Objective[Any]], options: Any, labels: list[str] | None, origin: str) -> ReadLabel:
    """Reads the labels of evaluation rows, which are those of the training rows."""

    def read(value: object) -> Label:
        try:
            return kind.read_label(options, value, labels)
        except UnknownLabelError as error:
            raise UnknownLabelError(f"{error}{origin}") from error

    return read


def _warn_splits(inputs: Sequence[FileIndex], recorder: Recorder) -> None:
    """A pattern that also matches the test rows gives a model that was trained on them."""
    for index in inputs:
        if len(splits := splits_of(index.files.names)) > 1:
            recorder.caveat(
                f"{index.field}: {index.name} matches files of several splits ({', '.join(sorted(splits))}), and all"
                " are read; if that is not meant, name one split"
            )


def _warn_repeating(parts: Sequence[FileIndex], recorder: Recorder) -> None:
    """An answer behind its prompt that begins with the prompt again teaches a model to repeat what it is asked."""
    for index in parts:
        rows = len(index) + (index.resolved.duplicate_rows or 0)
        if index.repeating > REPEATING_SHARE * rows:
            recorder.caveat(
                f"{index.field}: in {index.repeating:,} of {rows:,} rows of {index.name} the answer begins with"
                " the whole prompt that it follows, so the model learns to repeat it; if that is not meant, remove the"
                " prompt from the answers"
            )


def _warn_contradicted(parts: Sequence[FileIndex], recorder: Recorder) -> None:
    """Two rows that say the opposite of each other pull a model in both directions."""
    for index in parts:
        if index.contradicted:
            rows = len(index) + (index.resolved.duplicate_rows or 0)
            recorder.caveat(
                f"{index.field}: of {index.contradicted:,} of {rows:,} preferences of {index.name} another row says the"
                " opposite, so that nothing is learned of both; remove those that are wrong"
            )
        if len(found := contradicting(index)):
            same = found[index.digests[found] == index.digests[found[0]]]
            one, other = sorted(index.place(int(row))[1] for row in (same[0], same[-1]))
            recorder.caveat(
                f"{index.field}: {len(found):,} of {len(index):,} texts of {index.name} also stand with another"
                f" label, as in rows {one} and {other}; correct the labels that are wrong, or remove these rows"
            )


def _warn_shared_prompts(train: FileIndex, parts: Sequence[FileIndex], recorder: Recorder) -> None:
    """Which answers to a prompt people prefer is learned: other answers to it are no new test."""
    for index in parts:
        if shared := shared_prompts(train, index):
            recorder.caveat(
                f"{index.field}: {shared:,} of {len(index):,} rows answer prompts that training rows answer too, which"
                " makes the evaluation look better than it is; keep a prompt on one side, by"
                f" dataset.validation.groupBy: {index.options.wanted['prompt']} or in separate files"
            )


def _warn_look_alikes(labels: list[str], train: FileIndex, recorder: Recorder) -> None:
    """Labels that differ only by accident are separate classes, and the scores look good."""
    counts = train.labels.counts()
    pairs = look_alikes(labels)
    for one, other, difference in pairs[:LOOK_ALIKES_NAMED]:
        recorder.caveat(
            f"the labels {shown(one)} ({counts.get(one, 0)} rows) and {shown(other)} ({counts.get(other, 0)} rows)"
            f" differ only in {difference}; correct the data if they mean the same"
        )
    if len(pairs) > LOOK_ALIKES_NAMED:
        logger.warning(f"{len(pairs) - LOOK_ALIKES_NAMED} more pairs of labels look alike")
    for label in missing_values(labels)[:LOOK_ALIKES_NAMED]:
        recorder.caveat(f"the label {shown(label)} ({counts.get(label, 0)} rows) looks like a missing value")
    if no_label(labels):
        recorder.caveat(
            f"the label -1 ({counts.get('-1', 0)} rows) means 'no label' in Hugging Face datasets; if it does here,"
            " remove these rows"
        )


def _warn_one_label(parts: Sequence[FileIndex], recorder: Recorder) -> None:
    """Scores of rows with one label say nothing of the others."""
    for index in parts:
        if index.labels.strata() is not None and len(index.labels.names) == 1:
            recorder.caveat(
                f"{index.field}: all rows ({len(index):,}) have the label {index.labels.names[0]}, so that the"
                " evaluation says nothing of the others; give rows of each label"
            )


def _warn_unlearned(labels: list[str], train: FileIndex, recorder: Recorder) -> None:
    """A label that no training row has, by the spec or by the split, is never predicted, and nothing else shows it."""
    present = set(train.labels.names) - {IGNORED_LABEL}
    missing = [label for label in labels if label not in present]
    if missing:
        recorder.caveat(
            f"no training row has {'the label' if len(missing) == 1 else 'the labels'} {named(missing)}: the model"
            " does not learn it; give more rows, or change objective's labels or dataset.validation"
        )


def read_options(
    spec: DatasetInput | CombineData,
    objective: ObjectiveSpec,
    labels: list[str] | None,
    split: ValidationSplit | None,
) -> ReadOptions:
    """How rows are read that are then split, or not; `labels` are all that a row may have, if they are known."""
    kind, preference = OBJECTIVES[objective.kind], objective.preference
    return ReadOptions(
        columns=spec.columns,
        preprocessing=spec.preprocessing,
        max_invalid_rows=spec.max_invalid_rows,
        read_label=partial(kind.read_label, getattr(objective, objective.kind), labels=labels),
        group_by=split.group_by if split else None,
        per_token=kind.per_token,
        labelled=kind.labelled or bool(preference and not preference.loss.paired),
        label_lists=_label_lists(objective),
        label_numbers=_label_numbers(objective),
        rows=spec.rows,
        preference=preference.loss if preference else None,
    )


def _label_lists(objective: ObjectiveSpec) -> bool:
    """Whether a row has a list of labels or numbers."""
    return bool(
        objective.token_classification
        or (objective.classification and objective.classification.multi_label)
        or (objective.regression and objective.regression.targets > 1)
    )


def _label_numbers(objective: ObjectiveSpec) -> bool:
    """Whether labels are numbers to predict."""
    return objective.regression is not None


def hold_out(
    rows: FileIndex, split: ValidationSplit, seed: int, objective: ObjectiveSpec
) -> tuple[FileIndex, FileIndex]:
    """Training and validation rows: a function of rows, split and seed. Raises what `split_rows` raises."""
    train, held_out, how = split_rows(rows, split, seed, objective.classification is not None)
    logger.info(f"split {rows.name} {how}: {len(train)} training and {len(held_out)} validation rows")
    file = rows.resolved
    held = ResolvedData(
        uri=file.uri,
        revision=file.revision,
        digest=file.digest,
        rows=len(held_out),
        rows_digest=held_out.rows_digest,
        read_as=file.read_as,
    )
    return train, replace(held_out, field="dataset.validation", resolved=held, beside=())


def _log_sizes(train: FileIndex, validation: FileIndex, test: FileIndex | None, recorder: Recorder) -> int:
    """Log them; returns the number of rows outside the training rows whose text stands in these."""
    leaked = 0
    for name, rows in [("training", train), ("validation", validation), ("test", test)]:
        if rows is None:
            continue
        found = rows.resolved
        dropped = f"{found.invalid_rows or 0} invalid, {found.duplicate_rows or 0} duplicates"
        logger.info(f"{name}: {len(rows)} rows of {rows.name} (dropped: {dropped})")
        shared = 0 if rows is train else shared_texts(train, rows)
        leaked += shared
        if shared:
            recorder.caveat(
                f"{shared} of {len(rows)} {name} texts also stand in the training rows, which makes the evaluation"
                " look better than it is; set dataset.preprocessing.deduplicate: Exact"
            )
    return leaked
