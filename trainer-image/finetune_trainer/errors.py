"""The trainer's error tree.

`__main__` turns an error into an exit code, a sentence and a place; nobody else does.

TrainerError                  has a code, a message that says what to change, and a place in the user's input
├── ConfigurationError   64   run.json, or a combination of its fields, cannot work
├── DataError            65   a data file cannot be used: file, row, column
├── NotFoundError        66   a model or data file is missing, not readable or not acceptable
├── NoGpuError           69   GPUs were asked for and torch sees fewer
├── DeviceMemoryError    71   out of device memory: at one example, or at what is held without any
├── DivergedError        72   loss or gradient is not finite
├── StorageError         74   writing failed
├── StoppedError         75   stopped on a signal, or by a newer attempt
└── PrunedError          77   ended by the operator: other trials of the search do better

Every other exception is a fault of ours: 70, with its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from safetensors import SafetensorError

from finetune_api.run import ExitCode, FaultPlace


class TrainerError(Exception):
    """An end that the user or the operator can act on."""

    code: ClassVar[ExitCode] = ExitCode.FAULT

    def __init__(self, message: str, place: FaultPlace | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place


class ConfigurationError(TrainerError):
    """The configuration cannot work."""

    code = ExitCode.CONFIGURATION


class DataError(TrainerError):
    """The data cannot be used."""

    code = ExitCode.DATA


class NotFoundError(TrainerError):
    """A model or a file is missing or not acceptable."""

    code = ExitCode.NOT_FOUND


class NoGpuError(TrainerError):
    """Fewer GPUs than asked for."""

    code = ExitCode.NO_GPU


class DeviceMemoryError(TrainerError):
    """One example alone, or what is held without any, does not fit into the device's memory."""

    code = ExitCode.OUT_OF_MEMORY


class DivergedError(TrainerError):
    """Training produced numbers that are not finite."""

    code = ExitCode.DIVERGED


class StorageError(TrainerError):
    """A file could not be written."""

    code = ExitCode.STORAGE


class StoppedError(TrainerError):
    """Training was asked to stop."""

    code = ExitCode.INTERRUPTED


class PrunedError(TrainerError):
    """The operator asked for the end of this trial."""

    code = ExitCode.PRUNED


class PeerLostError(Exception):
    """Another process of the run is gone. No answer of the trainer: `launch` gives that of the other process."""


@contextmanager
def storage_errors(what: str, path: Path) -> Iterator[None]:
    """Turn what the file system says while writing into a StorageError that names `what` and `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"{what} could not be written to {path}: {reason}; check the volume's free space and access rights",
            FaultPlace(field="output", file=str(path)),
        ) from error


@contextmanager
def input_errors(name: str, field: str) -> Iterator[None]:
    """Turn what the file system says while reading the user's input `name` into a NotFoundError."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"{field}: {name} does not exist", FaultPlace(field=field, file=name)) from error
    except OSError as error:
        raise NotFoundError(
            f"{field}: {name} cannot be read: {error.strerror or error}", FaultPlace(field=field, file=name)
        ) from error
