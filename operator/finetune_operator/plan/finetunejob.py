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
    search_uid: str | None = None
    """uid of the search that it is a run of."""
