"""Labels: how they are read, found, ordered and weighed. Imports no torch."""

import json
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from finetune_api.run import FaultPlace
from finetune_trainer.errors import DataError
from finetune_trainer.objectives.base import IGNORED

MOST_LABELS = 1000
LONGEST_LABEL = 128
MOST_NAMED = 10
IGNORED_LABEL = str(IGNORED)


def label_text(value: object) -> str:
    """The string form of a label: true, 3 and "3" are the labels true, 3 and 3; ValueError for what is none."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, bool | int):
        text = json.dumps(value)
    elif isinstance(value, float) and math.isfinite(value) and value.is_integer():
        text = str(int(value))
    elif isinstance(value, float) and math.isnan(value):
        raise ValueError("is missing (NaN); remove the row, or write a label such as none")
    elif isinstance(value, float):
        raise ValueError(f"is the number {value}, not a label; for numbers use objective.regression")
    else:
        raise ValueError(
            f"is not a label but {named_type(value)}; write a text, a whole number or true or false"
        )
    if not text:
        raise ValueError("is empty; remove the row, or write a label such as none")
    if len(text) > LONGEST_LABEL:
        raise ValueError(f"has a label of {len(text)} characters; 1 to {LONGEST_LABEL} are allowed")
    return text


def named_type(value: object) -> str:
    """What a value of the file is, in the words of data files."""
    if isinstance(value, dict):
        return f"an object with the keys {named([str(key) for key in value])}" if value else "an empty object"
    if isinstance(value, list | tuple):
        return f"a list of {_elements(value)}" if value else "an empty list"
    if isinstance(value, bytes):
        return "bytes (a column without a text type; cast it to string)"
    names: dict[type, str] = {str: "a text", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _elements(values: Sequence[object]) -> str:
    plural = {
        str: "texts",
        bool: "booleans",
        int: "numbers",
        float: "numbers",
        dict: "objects",
        list: "lists",
    }
    kinds = dict.fromkeys("null" if v is None else plural.get(type(v), type(v).__name__) for v in values)
    return " and ".join(kinds)


def named(labels: list[str]) -> str:
    """Labels for a sentence; the first ten of many."""
    more = f", … ({len(labels)} labels)" if len(labels) > MOST_NAMED else ""
    return ", ".join(labels[:MOST_NAMED]) + more


class UnknownLabelError(ValueError):
    """A label that is not one of those that are fixed."""


def known_label(value: object, labels: list[str] | None) -> str:
    """`label_text` of one of the labels, where these are fixed."""
    text = label_text(value)
    if labels is not None and text not in labels:
        raise UnknownLabelError(f"has the label {text!r}, which is not one of {named(labels)}")
    return text


def known_labels(value: object, labels: list[str] | None) -> tuple[str, ...]:
    """`known_label` of every element of a list."""
    return tuple(known_label(each, labels) for each in _elements_of(value))


def words_labels(value: object, labels: list[str] | None) -> tuple[str, ...]:
    """`known_labels` of the words of a text; -100 stands for a word that is ignored."""
    return tuple(
        IGNORED_LABEL if is_ignored(each) else known_label(each, labels) for each in _elements_of(value)
    )


def label_set(value: object, labels: list[str] | None) -> tuple[str, ...]:
    """`known_labels`, each once. ValueError for a list with a 0 or 1 for every label, as transformers takes it."""
    found = known_labels(value, labels)
    if len(set(found)) < len(found) and set(found) <= {"0", "1", "true", "false"}:
        raise ValueError(
            f"looks like one number for every label, {str(value)[:40]}; write the names of the labels that apply, such"
            ' as ["sport", "music"]'
        )
    return tuple(dict.fromkeys(found))


def _elements_of(value: object) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"is not a list of labels but {named_type(value)}")
    return value


def is_ignored(value: object) -> bool:
    """Whether a word's label is -100, which transformers' losses ignore."""
    return value in (IGNORED, IGNORED_LABEL)


def found_labels(fixed: list[str] | None, values: Iterable[str], source: str) -> list[str]:
    """As the spec fixes them, else those of the training rows, sorted (by number where all are whole numbers).

    Raises DataError for fewer than two and for too many.
    """
    found = fixed or sort_labels(set(values))
    place = FaultPlace(field="dataset.columns.label", file=source)
    if len(found) < 2:
        what = f"one label only, {found[0]!r}" if found else "no label"
        raise DataError(f"{source} has {what}; classification needs two", place)
    if len(found) > MOST_LABELS:
        hint = (
            "is dataset.columns.label the right column, or is it a number to predict (objective.regression)?"
        )
        raise DataError(f"{source} has {len(found)} different labels, more than {MOST_LABELS}; {hint}", place)
    return found


def sort_labels(labels: set[str]) -> list[str]:
    """Sorted by number where all labels are whole numbers, else as texts."""
    try:
        return sorted(labels, key=lambda label: (int(label), label))
    except ValueError:
        return sorted(labels)


def ids_of(values: Iterable[str], labels: list[str]) -> npt.NDArray[np.int64]:
    """Position of each value among the labels (values,)."""
    ids = {label: number for number, label in enumerate(labels)} | {IGNORED_LABEL: IGNORED}
    return np.fromiter((ids[value] for value in values), dtype=np.int64)


def balanced_weights(counts: npt.NDArray[np.int64]) -> tuple[float, ...]:
    """rows / (classes x rows of the class), as scikit-learn's `compute_class_weight('balanced')`.

    A class without rows counts as if it had one.
    """
    present = np.maximum(counts, 1)
    return tuple(float(weight) for weight in counts.sum() / (len(counts) * present))
