"""What a job says when the API server refuses one of its children. Pure."""

from datetime import datetime, timedelta

from finetune_api.status import FineTuneJobStatus, Phase, Reason
from finetune_core.decide.conditions import Verdict
from finetune_operator.errors import ApiError, ForeignObjectError

_AT_ONCE = (400, 403, 413, 422)
"""Codes that a second try does not change. Others are reported only if they last."""
_NEVER_VALID = (413, 422)
_TRANSIENT = timedelta(seconds=2)
_POD = "spec.template.spec"
_FIELDS = (
    (f"{_POD}.containers[0].resources", "spec.resources"),
    (f"{_POD}.nodeSelector", "spec.scheduling.nodeSelector"),
    (f"{_POD}.tolerations", "spec.scheduling.tolerations"),
    (f"{_POD}.priorityClassName", "spec.scheduling.priorityClassName"),
    (f"{_POD}.imagePullSecrets", "spec.scheduling.imagePullSecrets"),
    (f"{_POD}.containers[0].env", "spec.env"),
    (f"{_POD}.containers[0].image", "spec.image"),
    (f"{_POD}.containers[0].command", "spec.command"),
)
"""Where a field of the Job comes from."""
_WHILE_SUSPENDED = ("spec.resources", "spec.scheduling")
_CHANGE = "suspend the job (spec.suspend: true), change the field, and set spec.suspend to false"
_CREATE = "create a new FineTuneJob with another value"


def may_pass(error: ApiError | ForeignObjectError, status: FineTuneJobStatus, now: datetime) -> bool:
    """Whether it is too early to report it: the API server, or a webhook, may answer in a moment."""
    if isinstance(error, ForeignObjectError) or error.status in _AT_ONCE:
        return False
    begun = status.attempts[-1].start_time if status.attempts else None
    return begun is None or now - begun < _TRANSIENT


def refusal(error: ApiError | ForeignObjectError) -> Verdict:
    """Why the attempt's objects are not there, and what to change where it cannot become valid by waiting."""
    if isinstance(error, ForeignObjectError):
        return Verdict(Phase.PENDING, Reason.CHILD_NAME_CONFLICT, str(error), stalled=True)
    message = _in_words_of_the_spec(error) or str(error)
    return Verdict(Phase.PENDING, Reason.CHILD_REFUSED, message, stalled=error.status in _NEVER_VALID)


def _in_words_of_the_spec(error: ApiError) -> str | None:
    found = [
        (ours + cause.field.removeprefix(theirs), cause.message)
        for cause in error.causes
        for theirs, ours in _FIELDS
        if cause.field.startswith(theirs)
    ]
    if not found:
        return None
    said = "; ".join(f"{field}: {message}" for field, message in dict(found).items())
    changeable = all(field.startswith(_WHILE_SUSPENDED) for field, _ in found)
    return f"the API server refuses {said[:700]}; {_CHANGE if changeable else _CREATE}"
