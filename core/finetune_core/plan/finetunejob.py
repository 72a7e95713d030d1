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
    parent_uid: str | None = None
    """uid of the search or ensemble that it is a run of."""

    @property
    def is_parent(self) -> bool:
        """Whether other FineTuneJobs train for it: it is a search or an ensemble."""
        return self.spec.search is not None or self.spec.ensemble is not None
