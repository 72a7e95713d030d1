"""Errors of commands, which end with one sentence and an exit code."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the CLI. A job that has failed gives the trainer's exit code, where it has one."""

    DONE = 0
    FAILED = 1
    NOT_FOUND = 2
    TIMED_OUT = 3
    CLUSTER = 4


class CommandError(Exception):
    """What went wrong, and what to change."""

    def __init__(self, message: str, code: int = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code
