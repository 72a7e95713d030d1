"""Cleans texts as `dataset.preprocessing` says."""

from collections.abc import Callable
from typing import Any

from finetune_api.dataset import PreprocessingSpec, Unicode
from finetune_trainer.shipped import preprocessing

Clean = Callable[[str], str]


def cleaner(spec: PreprocessingSpec, *, joined: bool = False) -> Clean:
    """The function that cleans every text; `joined` texts stand behind each other without anything between them."""
    return preprocessing.cleaner(**cleaning_options(spec), joined=joined)


def cleaning_options(spec: PreprocessingSpec) -> dict[str, Any]:
    """What is asked for, as `shipped.preprocessing` takes it; empty where texts stay as they are."""
    options: dict[str, Any] = {} if spec.unicode is Unicode.NONE else {"unicode": spec.unicode.value}
    flags = {
        "markup": spec.strip_markup,
        "whitespace": spec.collapse_whitespace,
        "lowercase": spec.lowercase,
    }
    return options | {name: True for name, wanted in flags.items() if wanted}
