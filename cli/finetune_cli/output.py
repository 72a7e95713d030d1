"""Where and how commands print: tables and colours on a terminal, plain lines elsewhere, JSON or YAML on request."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN_WIDTH = 200


class Format(StrEnum):
    """Format of `-o`."""

    JSON = "json"
    YAML = "yaml"


class Part(StrEnum):
    """Rows of a dataset."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def console(*, stderr: bool = False) -> Console:
    """The console; it has no colours if NO_COLOR is set or the output is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PLAIN_WIDTH
    return Console(stderr=stderr, soft_wrap=True, highlight=False, width=width)


def dump(value: Any, form: Format) -> None:
    """Print a value as JSON or YAML."""
    if form is Format.JSON:
        print(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        dump_yaml([value])


def dump_yaml(documents: list[Any]) -> None:
    """Print YAML documents."""
    from finetune_sdk.yaml_files import write_documents

    write_documents(documents, sys.stdout)
