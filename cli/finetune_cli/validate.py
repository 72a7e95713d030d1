"""Validates FineTuneJobs in YAML files with the rules of the API server and of the operator."""

from collections.abc import Iterator
from pathlib import Path

from finetune_sdk.validation import documents_in, faults_of


def faults_in(file: Path) -> Iterator[str]:
    """The errors of a file's FineTuneJobs, each with its place; a file without a FineTuneJob is an error."""
    try:
        documents = documents_in(file)
    except ValueError as error:
        yield str(error)
        return
    for place, body in documents:
        yield from (f"{place}: {fault}" for fault in faults_of(body))
