"""A decision: the next status, one action, and when to requeue."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from finetune_api.status import FineTuneJobStatus


class Action(Enum):
    """What to do after the status is written."""

    NOTHING = auto()
    CREATE_PREFLIGHT = auto()
    STOP_PREFLIGHT = auto()
    CREATE_ATTEMPT = auto()
    STOP_ATTEMPT = auto()
    DELETE_CHILDREN = auto()


@dataclass(frozen=True)
class Decision:
    """The next status and action. `requeue_at` is when to reconcile again without a change."""

    status: FineTuneJobStatus
    action: Action = Action.NOTHING
    requeue_at: datetime | None = None
