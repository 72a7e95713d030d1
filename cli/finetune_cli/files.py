"""Reads the FineTuneJobs of YAML files for commands that need valid ones."""

from pathlib import Path
from typing import Any

from finetune_api.run import ExitCode
from finetune_cli.errors import CommandError
from finetune_sdk.validation import documents_in, faults_of

Body = dict[str, Any]


def jobs_in(file: Path) -> list[Body]:
    """The FineTuneJobs of a file. Raises CommandError with every fault of every one."""
    try:
        documents = documents_in(file)
    except ValueError as error:
        raise CommandError(str(error), ExitCode.CONFIGURATION) from error
    if faults := [f"{place}: {fault}" for place, body in documents for fault in faults_of(body)]:
        raise CommandError("\n".join(faults), ExitCode.CONFIGURATION)
    return [body for _, body in documents]


def only_job(file: Path) -> Body:
    """The FineTuneJob of a file that has one. Raises CommandError."""
    jobs = jobs_in(file)
    if len(jobs) > 1:
        names = ", ".join(job["metadata"]["name"] for job in jobs)
        raise CommandError(
            f"{file} has {len(jobs)} FineTuneJobs ({names}); write this one into a separate file"
        )
    return jobs[0]


def check_namespace(file: Path, body: Body, option: str | None) -> None:
    """Raise CommandError if a file and --namespace name different namespaces, as kubectl does."""
    own = body["metadata"].get("namespace")
    if option and own and own != option:
        raise CommandError(f"{file} is for namespace {own}; remove --namespace {option}, or change the file")
