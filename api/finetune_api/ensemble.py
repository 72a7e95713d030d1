"""`spec.ensemble`: several models combined into one. The job becomes the parent of its members, which are FineTuneJobs themselves."""

from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from finetune_api.base import ApiModel, Rule, immutable
from finetune_api.combine import RULES, CombineRule, DistilSpec, Publish
from finetune_api.status import MEMBERS_KEPT


class _Overrides:
    """Values of any type by path, which the API server stores unchanged."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
            "minProperties": 1,
            "maxProperties": 16,
        }


Overrides = Annotated[dict[str, Any], Field(min_length=1, max_length=16), _Overrides]
_MEMBERS = {"ge": 2, "le": MEMBERS_KEPT}
_IMMUTABLE = ("members", "overrides", "fromSearch", "combine", "distil", "minMembers", "publish")


class EnsembleSpec(ApiModel):
    """An ensemble: the job trains its members, FineTuneJobs with other seeds or values, and combines their models. Members with a LoRA adapter are published merged."""

    rules = (
        Rule(
            "[has(self.members), has(self.overrides), has(self.fromSearch)].filter(set, set).size() == 1",
            "set exactly one of members, overrides and fromSearch",
            lambda s: sum(part is not None for part in (s.members, s.overrides, s.from_search)) == 1,
        ),
        Rule(
            "!has(self.minMembers) || self.minMembers <= (has(self.members) ? self.members :"
            " has(self.overrides) ? self.overrides.size() : has(self.fromSearch) ? self.fromSearch : 0)",
            "minMembers must not be more than the number of members",
            lambda s: s.min_members is None or s.min_members <= s.size,
            ".minMembers",
        ),
        Rule(
            "!has(self.distil) || (has(self.combine) && self.combine == 'Distil')",
            "distil is for combine: Distil; set it, or remove distil",
            lambda s: s.distil is None or s.combine is CombineRule.DISTIL,
            ".distil",
        ),
        *(immutable("spec.ensemble", field) for field in _IMMUTABLE),
    )
    members: Annotated[int, Field(**_MEMBERS)] | None = None
    """Number of members, which differ in their seed: training.seed, + 1, + 2 and so on."""
    overrides: Annotated[list[Overrides], Field(min_length=2, max_length=MEMBERS_KEPT)] | None = None
    """One member for each item, with other values of some fields, by path, for example [{training.seed: 1}, {training.seed: 2, training.optimizer.learningRate: 1e-5}]."""
    from_search: Annotated[int, Field(**_MEMBERS)] | None = None
    """Combine this many of the best trials of spec.search."""
    combine: CombineRule | None = None
    """How the members are combined. AverageProbabilities, Vote: for classifiers. AveragePredictions: for regression. AverageWeights: one model with the mean of the weights (model soup). GreedySoup: a soup of the members that improve it. Distil: a student, one more model of this job that learns the mean of the members' outputs; it trains with the job's resources. Default: AverageProbabilities for classification and token classification, AveragePredictions for regression, AverageWeights for causalLM."""
    distil: DistilSpec | None = None
    """How the student of combine: Distil learns from the members. Default: temperature 2 and alpha 0.5."""
    parallelism: Annotated[int, Field(ge=1, le=MEMBERS_KEPT)] = 1
    """Number of members that train at the same time. Can be changed at any time."""
    min_members: Annotated[int, Field(**_MEMBERS)] | None = None
    """Combine the others if members fail, as long as this many succeed. Default: all must succeed."""
    publish: Publish = Publish.IF_BETTER
    """IfBetter publishes the best member instead if the combination is not better than it on the validation rows, by training.evaluation.bestMetric. Always publishes the combination."""

    @property
    def size(self) -> int:
        """Number of members."""
        return self.members or self.from_search or len(self.overrides or [])

    @property
    def least(self) -> int:
        """Number of members that must succeed."""
        return self.min_members or self.size

    def rule(self, objective: str) -> CombineRule:
        """How the members of an objective are combined."""
        return self.combine or RULES[objective][0]
