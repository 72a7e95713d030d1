"""The errors of the Python API and the CLI: each has one sentence that says what to change.

FineTuneError
├── InvalidJobError      a job that the API server would refuse, with every place
├── ClusterError         the API server did not do what was asked
│   ├── ConfigError      no kubeconfig, or a context that it does not have
│   ├── UnreachableError no answer, or not now
│   ├── NotInstalledError the cluster has no FineTuneJobs
│   ├── ForbiddenError   the user may not do it
│   ├── NotFoundError    no object of this name
│   ├── ConflictError    the object exists, or another client owns the field
│   └── RefusedError     any other refusal, such as a rule of the schema
├── JobFailedError       a job ended with a failure
├── WaitTimeoutError     a job has not ended in time
└── ModelError           a model's files are not there or do not have their checksums
"""


class FineTuneError(Exception):
    """Base of all errors."""


class InvalidJobError(FineTuneError):
    """The API server would refuse the job."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class ClusterError(FineTuneError):
    """The API server did not do what was asked."""


class ConfigError(ClusterError):
    """There is no kubeconfig, or it does not have this context."""


class UnreachableError(ClusterError):
    """The API server does not answer, or cannot answer now."""


class NotInstalledError(ClusterError):
    """The cluster does not have the FineTuneJob resource."""


class ForbiddenError(ClusterError):
    """The user's credentials do not allow the request."""


class NotFoundError(ClusterError):
    """There is no object of this name."""


class ConflictError(ClusterError):
    """The object exists already, or another client owns a field."""


class RefusedError(ClusterError):
    """The API server refused the request."""


class JobFailedError(FineTuneError):
    """A job ended with a failure; `reason` is that of its Failed condition."""

    def __init__(self, name: str, reason: str, message: str) -> None:
        super().__init__(f"{name} failed ({reason}): {message}")
        self.name, self.reason, self.message = name, reason, message


class WaitTimeoutError(FineTuneError):
    """A job has not ended in the time given."""


class ModelError(FineTuneError):
    """A model's files are not there or do not have their checksums."""
