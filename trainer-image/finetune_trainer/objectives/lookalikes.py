"""Finds labels that differ only by accident: white space, invisible characters, case, a number's form. Pure."""

import re
import unicodedata
from collections.abc import Callable, Sequence

INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad\u180e"
"""Zero-width characters, marks of direction, soft hyphen, byte order mark."""
_UNSEEN = re.compile(rf"[\s{INVISIBLE}]+")
_NUMBER = re.compile(r"[+-]?\d+(\.0*)?")
_MISSING = frozenset(["na", "n/a", "nan", "null", "none", "<na>", "#n/a", "nil", "undefined", "?", "-"])


def _visible(label: str) -> str:
    return _UNSEEN.sub("", unicodedata.normalize("NFKC", label))


def _number(label: str) -> str:
    found = _visible(label)
    return str(int(float(found))) if len(found) < 16 and _NUMBER.fullmatch(found) else found


_SAME: dict[str, Callable[[str], str]] = {
    "white space, invisible characters or Unicode form": _visible,
    "case": lambda label: _visible(label).casefold(),
    "the form of the number": _number,
}


def look_alikes(labels: Sequence[str]) -> list[tuple[str, str, str]]:
    """Pairs of labels that look alike, and their only difference; each label at most once as the second."""
    pairs: dict[str, tuple[str, str, str]] = {}
    for difference, key in _SAME.items():
        first: dict[str, str] = {}
        for label in labels:
            earlier = first.setdefault(key(label), label)
            if earlier != label and label not in pairs:
                pairs[label] = (earlier, label, difference)
    return list(pairs.values())


def missing_values(labels: Sequence[str]) -> list[str]:
    """Labels that usually stand for a missing value: NA, nan, null, or nothing that can be seen."""
    return [label for label in labels if not _visible(label) or label.strip().casefold() in _MISSING]


def no_label(labels: Sequence[str]) -> bool:
    """Whether the labels are 0 to n and -1, which Hugging Face's datasets write for 'no label'."""
    return "-1" in labels and "0" in labels and "-2" not in labels and all(map(_NUMBER.fullmatch, labels))


def shown(label: str) -> str:
    """A label in quotes; what cannot be seen is escaped."""
    return ascii(label) if _UNSEEN.search(label.replace(" ", "")) or not label.isprintable() else repr(label)
