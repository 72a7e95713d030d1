"""The trainer's error tree.

`__main__` turns an error into an exit code, a sentence and a place; nobody else does.

TrainerError                  has a code, a message that says what to change, and a place in the user's input
├── ConfigurationError   64   run.json, or a combination of its fields, is invalid
├── DataError            65   invalid data: file, row, column
├── NotFoundError        66   a model or data file is missing, not readable or not supported
├── NoGpuError           69   torch sees fewer GPUs than requested
├── DeviceMemoryError    71   out of device memory, with one example or without any
├── DivergedError        72   NaN or infinite loss or gradient
├── StorageError         74   writing failed
├── StoppedError         75   stopped on a signal, or by a newer attempt
├── PeerLostError        76   another process of the run is gone, silent, or never came
├── PrunedError          77   ended by the operator: other trials of the search are better
└── GateNotPassedError   78   the trained model does not reach what spec.gate asks for

Any other exception is a bug in the trainer: 70, with its traceback.
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
    """The configuration is invalid."""

    code = ExitCode.CONFIGURATION


class DataError(TrainerError):
    """The data is invalid."""

    code = ExitCode.DATA


class NotFoundError(TrainerError):
    """A model or a file is missing or not supported."""

    code = ExitCode.NOT_FOUND


class NoGpuError(TrainerError):
    """Fewer GPUs than requested."""

    code = ExitCode.NO_GPU


class DeviceMemoryError(TrainerError):
    """One example, or the model and its optimizer, do not fit into the device's memory."""

    code = ExitCode.OUT_OF_MEMORY


class DivergedError(TrainerError):
    """Training produced NaN or infinity."""

    code = ExitCode.DIVERGED


class StorageError(TrainerError):
    """A file could not be written."""

    code = ExitCode.STORAGE


class StoppedError(TrainerError):
    """Training was asked to stop."""

    code = ExitCode.INTERRUPTED


class PeerLostError(TrainerError):
    """A peer process is gone. `launch` reports that of the other process, where it runs on the same node."""

    code = ExitCode.PEER_LOST


class PrunedError(TrainerError):
    """The operator pruned this trial."""

    code = ExitCode.PRUNED


class GateNotPassedError(TrainerError):
    """The trained model does not reach what spec.gate asks for."""

    code = ExitCode.GATE_NOT_PASSED


@contextmanager
def storage_errors(what: str, path: Path) -> Iterator[None]:
    """Turn file system errors while writing into a StorageError that names `what` and `path`."""
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
    """Turn file system errors while reading the user's input `name` into a NotFoundError."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"{field}: {name} does not exist", FaultPlace(field=field, file=name)) from error
    except OSError as error:
        raise NotFoundError(
            f"{field}: {name} cannot be read: {error.strerror or error}", FaultPlace(field=field, file=name)
        ) from error
