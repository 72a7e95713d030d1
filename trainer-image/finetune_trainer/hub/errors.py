"""What the Hub answers, or that it does not, as the trainer's errors.

66 is for what another attempt would find again: a wrong name, no access. 74 is for what may pass: the network, the
Hub's own faults, a full disk. No token ever stands in a message."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_api.run import FaultPlace
from finetune_trainer.errors import NotFoundError, StorageError, TrainerError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
ACCESS = (
    "make a token that may read it (the Hub's Settings, Access Tokens), put it under the key token of a Secret,"
    " and name that in model.credentials.secretName"
)


def unavailable() -> tuple[type[Exception], ...]:
    """What huggingface_hub and its HTTP client raise for everything that went wrong."""
    from huggingface_hub.errors import HfHubHTTPError

    return (*HfHubHTTPError.__bases__, ValueError)


@contextmanager
def hub_faults(field: str, uri: str, endpoint: str, cache: str) -> Iterator[None]:
    """Turn what huggingface_hub raises while it fetches `uri` into NotFoundError or StorageError."""
    try:
        yield
    except unavailable() as error:
        raise _told(error, f"{field}: {uri}", endpoint, cache, FaultPlace(field=field, file=uri)) from error


def _told(error: Exception, what: str, endpoint: str, cache: str, place: FaultPlace) -> TrainerError:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    root = _root(error)
    if isinstance(root, OfflineModeIsEnabled) or isinstance(error.__context__, OfflineModeIsEnabled):
        return NotFoundError(
            f"{what} is not in the cache {cache}, and the Hub is not asked (HF_HUB_OFFLINE, set by the chart's"
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
        f"{what} could not be fetched from {endpoint}: {_first_line(root)}; can pods reach it? A mirror is set by"
        " HF_ENDPOINT, the chart's trainer.hub.endpoint",
        place,
    )


def _root(error: Exception) -> Exception:
    """Beneath `not in the cache either` stands why the Hub could not be asked."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    cause = error.__cause__
    return cause if isinstance(error, LocalEntryNotFoundError) and isinstance(cause, Exception) else error


def _refused(error: Exception, what: str, endpoint: str, place: FaultPlace) -> TrainerError:
    """An HTTP answer that is no success."""
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
        whose = (
            "the account of this token was not given access"
            if token
            else "it is gated, and no token was given"
        )
        return NotFoundError(f"{what}: {whose}; accept its terms on its page, {ACCESS}", place)
    if isinstance(error, RevisionNotFoundError):
        return NotFoundError(f"{what}: the repository has no such branch, tag or commit on {endpoint}", place)
    if isinstance(error, EntryNotFoundError):
        return NotFoundError(f"{what}: the repository has no such file at this revision on {endpoint}", place)
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        private = "the token may not see it" if token else f"it is private; then {ACCESS}"
        return NotFoundError(f"{what} is not on {endpoint}: the name is wrong, or {private}", place)
    if status in (401, 403):
        why = "refuses this token" if token else "asks for a token"
        return NotFoundError(f"{what}: {endpoint} {why} (HTTP {status}); {ACCESS}", place)
    return StorageError(
        f"{what}: {endpoint} answered HTTP {status}; another attempt may find it well again", place
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
