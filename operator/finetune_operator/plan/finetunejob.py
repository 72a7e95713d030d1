"""The FineTuneJob as the operator sees it: identity, parsed spec, parsed status."""

from dataclasses import dataclass

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus


@dataclass(frozen=True)
class FineTuneJob:
    """A FineTuneJob that this operator understands."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: FineTuneJobSpec
    status: FineTuneJobStatus
