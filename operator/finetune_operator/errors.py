"""The operator's errors.

OperatorError
├── SettingsError          an environment variable is wrong or unknown; the process does not start
├── NotLeaderError         a write was stopped before it was sent: this process does not lead
├── LeadershipLostError    another process leads now, or the Lease could not be renewed; the process ends
├── RewoundError           the API server's data went back in time, as etcd's does from a backup; the process ends
├── ApiError               the API server refused a request
│   ├── NotFoundError      404
│   ├── ConflictError      409 on a write: the object changed meanwhile; reconcile again
│   └── AlreadyExistsError 409 on a create
└── ForeignObjectError     a child's name is taken by an object that is not ours
"""

from typing import NamedTuple


class Cause(NamedTuple):
    """What the API server says of one field."""

    field: str
    message: str


class OperatorError(Exception):
    """Base of all errors of the operator."""


class SettingsError(OperatorError):
    """An environment variable is wrong or unknown."""


class NotLeaderError(OperatorError):
    """This process does not lead, so it writes nothing."""


class LeadershipLostError(OperatorError):
    """This process led and does not lead any more."""


class RewoundError(OperatorError):
    """The API server's data went back in time: what this process knows is another history's."""

    def __init__(self, what: str, before: int, now: int) -> None:
        super().__init__(
            f"the resourceVersion of {what} went back from {before} to {now}: etcd was restored from a backup; this"
            " process ends, and the next one reads everything again"
        )


class ApiError(OperatorError):
    """The API server refused a request."""

    def __init__(
        self, verb: str, path: str, status: int, message: str, causes: tuple[Cause, ...] = ()
    ) -> None:
        super().__init__(f"{verb} {path}: {status} {message}")
        self.path, self.status, self.message, self.causes = path, status, message, causes


class NotFoundError(ApiError):
    """The object does not exist."""


class ConflictError(ApiError):
    """The object changed since it was read."""


class AlreadyExistsError(ApiError):
    """An object of this name exists."""


class ForeignObjectError(OperatorError):
    """A child's name is taken by an object that is not ours."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(
            f"{kind} {name} exists and does not belong to this FineTuneJob;"
            " delete it, or create the job under another name"
        )
