"""The FineTuneJob as the operator sees it: identity, parsed spec, parsed status."""

from dataclasses import dataclass
from datetime import datetime

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus


@dataclass(frozen=True)
class Job:
    """A FineTuneJob whose spec can be understood."""

    namespace: str
    name: str
    uid: str
    generation: int
    created: datetime
    spec: FineTuneJobSpec
    status: FineTuneJobStatus
