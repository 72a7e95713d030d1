"""Translates errors of the Hub and of the network into the trainer's errors.

Code 66 is for permanent errors: a wrong name, no access. Code 74 is for temporary ones, which are retried: the network,
errors of the Hub, a full disk. A message never contains a token."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_api.run import FaultPlace
from finetune_trainer.errors import NotFoundError, StorageError, TrainerError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
ACCESS = (
    "create a token that can read it (the Hub's Settings, Access Tokens), store it in a Secret under the key token,"
    " and set model.credentials.secretName to its name"
)


def unavailable() -> tuple[type[Exception], ...]:
    """The exceptions of huggingface_hub and its HTTP client."""
    from huggingface_hub.errors import HfHubHTTPError

    return (*HfHubHTTPError.__bases__, ValueError)


@contextmanager
def hub_faults(field: str, uri: str, endpoint: str, cache: str) -> Iterator[None]:
    """Turn what huggingface_hub raises while it fetches `uri` into NotFoundError or StorageError."""
    try:
        yield
    except unavailable() as error:
        raise _translated(
            error, f"{field}: {uri}", endpoint, cache, FaultPlace(field=field, file=uri)
        ) from error


def _translated(error: Exception, what: str, endpoint: str, cache: str, place: FaultPlace) -> TrainerError:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    root = _root(error)
    if isinstance(root, OfflineModeIsEnabled) or isinstance(error.__context__, OfflineModeIsEnabled):
        return NotFoundError(
            f"{what} is not in the cache {cache}, and the Hub is offline (HF_HUB_OFFLINE, set by the chart's"
            " trainer.hub.offline); use a claim (pvc://) or a mirror (trainer.hub.endpoint)",
            place,
        )
    if isinstance(root, HfHubHTTPError):
        return _refused(root, what, endpoint, place)
    if isinstance(root, OSError) and root.errno in DISK:
        return StorageError(
            f"{what} could not be written to {cache}: {root.strerror}; check the output volume's free space and access"
            " rights",
            FaultPlace(field="output", file=cache),
        )
    if isinstance(root, ValueError):
        return NotFoundError(f"{what} cannot be downloaded: {_first_line(root)}", place)
    return StorageError(
        f"{what} could not be downloaded from {endpoint}: {_first_line(root)}; check that pods can reach it, or set a"
        " mirror with HF_ENDPOINT, the chart's trainer.hub.endpoint",
        place,
    )


def _root(error: Exception) -> Exception:
    """The reason why the Hub could not be reached, below huggingface_hub's `not in the cache`."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    cause = error.__cause__
    return cause if isinstance(error, LocalEntryNotFoundError) and isinstance(cause, Exception) else error


def _refused(error: Exception, what: str, endpoint: str, place: FaultPlace) -> TrainerError:
    """An HTTP error response."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = error.response.status_code  # type: ignore[attr-defined]
    token = get_token() is not None
    if isinstance(error, GatedRepoError):
        whose = "the account of this token has no access" if token else "it is gated, and there is no token"
        return NotFoundError(f"{what}: {whose}; accept the terms on its page, then {ACCESS}", place)
    if isinstance(error, RevisionNotFoundError):
        return NotFoundError(
            f"{what}: the repository has no such branch, tag or commit on {endpoint}; check the revision",
            place,
        )
    if isinstance(error, EntryNotFoundError):
        return NotFoundError(
            f"{what}: the repository has no such file at this revision on {endpoint}; check the path", place
        )
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        private = "the token has no access" if token else f"it is private; then {ACCESS}"
        return NotFoundError(f"{what} is not on {endpoint}: the name is wrong, or {private}", place)
    if status in (401, 403):
        why = "refuses this token" if token else "requires a token"
        return NotFoundError(f"{what}: {endpoint} {why} (HTTP {status}); {ACCESS}", place)
    return StorageError(f"{what}: {endpoint} responded with HTTP {status}; a retry may succeed", place)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
