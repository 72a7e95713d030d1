"""The FineTuneJob as the operator sees it: identity, parsed spec, parsed status."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_api.combine import CombineRule
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
    kueue_labels: Mapping[str, str] = field(default_factory=dict)
    """Kueue's labels on the FineTuneJob itself, which Kueue does not read."""
    kueue_annotations: tuple[str, ...] = ()
    """The names of its annotations there."""

    @property
    def is_parent(self) -> bool:
        """Whether other FineTuneJobs train for it: it is a search or an ensemble."""
        return self.spec.search is not None or self.spec.ensemble is not None

    @property
    def distils(self) -> bool:
        """Whether its own attempt trains a student of its members."""
        return self.spec.ensemble is not None and self.spec.ensemble.combine is CombineRule.DISTIL

    @property
    def trains(self) -> bool:
        """Whether its own attempts train, and need what training needs."""
        return self.distils or not self.is_parent


_OF_THE_PARENT = ("search", "ensemble", "gate")


def of_one_run(spec: FineTuneJobSpec) -> dict[str, Any]:
    """The wire form of a spec without search, ensemble and gate: that of a run, but for its values.

    The gate is on the parent's model alone; what it compares is measured in every run.
    """
    wire = {name: value for name, value in spec.to_json().items() if name not in _OF_THE_PARENT}
    training = spec.resolved_training()
    if spec.gate and training:
        asked = wire.get("training", {})
        measured = training.evaluation.to_json()
        needed = {name: measured[name] for name in ("metrics", "baseline") if name in measured}
        wire["training"] = asked | {"evaluation": asked.get("evaluation", {}) | needed}
    return wire
