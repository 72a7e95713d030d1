"""Names of class labels, which Hugging Face's datasets write into the schema of Parquet and Arrow files."""

import json
from typing import Any

from finetune_trainer.data.rows import ReadLabel
from finetune_trainer.objectives.base import Label
from finetune_trainer.objectives.labels import UnknownLabelError, is_ignored

METADATA = b"huggingface"
NO_LABEL = -1
NO_LABEL_REASON = "has the label -1, which means 'no label' in Hugging Face datasets; remove the row"


def class_names(schema: Any, column: str) -> tuple[str, ...]:
    """The names of a column of integers, or of lists of them, by id; none where the schema has none."""
    if schema.get_field_index(column) < 0 or "int" not in str(schema.field(column).type):
        return ()
    try:
        feature = json.loads((schema.metadata or {})[METADATA])["info"]["features"][column]
        while feature.get("_type") != "ClassLabel":
            feature = feature["feature"]
        return tuple(map(str, feature["names"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()


def by_name(read: ReadLabel, names: tuple[str, ...], *, numbers: bool) -> ReadLabel:
    """Reads ids as the names of their classes, or as `numbers` to predict; -1 is no label of either."""

    def name_of(value: object) -> object:
        if isinstance(value, list):
            return [name_of(each) for each in value]
        if not isinstance(value, int) or is_ignored(value):
            return value
        if value == NO_LABEL:
            raise ValueError(NO_LABEL_REASON)
        if not 0 <= value < len(names):
            raise ValueError(
                f"has the label {value}, but the file's schema has names for 0 to {len(names) - 1} only"
            )
        return value if numbers else names[value]

    def read_named(value: object) -> Label:
        named = name_of(value)
        try:
            return read(named)
        except UnknownLabelError as error:
            if named == value:
                raise
            raise UnknownLabelError(f"{error} (the file has {value}, which its schema names so)") from error

    return read_named
