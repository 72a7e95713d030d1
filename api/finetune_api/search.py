"""`spec.search`: hyperparameter search. The job becomes the parent of trials, which are FineTuneJobs themselves."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, StringConstraints
from pydantic_core import CoreSchema

from finetune_api.base import ApiModel, OneOf, Rule, Unique, immutable

DEFAULT_TRIALS = 20
MOST_TRIALS = 999
_PATH = r"^(model|dataset|objective|training)(\.[a-zA-Z0-9]+)+$"
_IMMUTABLE = (
    "algorithm",
    "parameters",
    "maxFailedTrials",
    "patience",
    "pruner",
    "confirm",
    "keepModels",
    "seed",
)
_FIXED = ("dataset.train", "dataset.validation", "dataset.test", "training.evaluation.bestMetric")


class _Anything:
    """A value of any type, which the API server stores unchanged."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"nullable": True, "x-kubernetes-preserve-unknown-fields": True}


Value = Annotated[Any, _Anything]
Path = Annotated[str, StringConstraints(pattern=_PATH, max_length=128)]
Values = Annotated[list[Value], Field(min_length=1, max_length=64)]


class Algorithm(StrEnum):
    """How the values of a trial are chosen."""

    TPE = "TPE"
    RANDOM = "Random"
    GRID = "Grid"


def _ordered() -> Rule:
    return Rule("self.min < self.max", "min must be less than max", lambda s: s.min < s.max)


class KeepModels(StrEnum):
    """Which models of a search are kept when it has ended."""

    ALL = "All"
    BEST = "Best"


class RangeSpec(ApiModel):
    """A range of numbers."""

    rules = (_ordered(),)
    min: Annotated[float, Field(ge=-1e9, le=1e9)]
    """Smallest value."""
    max: Annotated[float, Field(ge=-1e9, le=1e9)]
    """Largest value."""


class LogRangeSpec(ApiModel):
    """A range of positive numbers, sampled uniformly in their logarithm."""

    rules = (_ordered(),)
    min: Annotated[float, Field(gt=0, le=1e9)]
    """Smallest value, for example 1e-5."""
    max: Annotated[float, Field(gt=0, le=1e9)]
    """Largest value, for example 1e-3."""


class IntegerRangeSpec(ApiModel):
    """A range of integers."""

    rules = (_ordered(),)
    min: Annotated[int, Field(ge=0, le=1_000_000_000)]
    """Smallest value."""
    max: Annotated[int, Field(ge=0, le=1_000_000_000)]
    """Largest value."""
    step: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Distance between two values. Default: 1."""

    @property
    def values(self) -> range:
        """All values."""
        return range(self.min, self.max + 1, self.step or 1)


class WhenSpec(ApiModel):
    """A condition on another parameter."""

    path: Path
    """Path of the other parameter."""
    values: Values
    """Values of the other parameter with which this one applies."""


class ParameterSpec(ApiModel):
    """A field of the spec that is searched, and its values: exactly one of choice, uniform, logUniform, integer."""

    rules = (
        Rule(
            "[has(self.uniform), has(self.logUniform), has(self.integer)].filter(set, set).size() <= 1",
            "set exactly one of choice, uniform, logUniform and integer",
            lambda s: sum(part is not None for part in (s.choice, s.uniform, s.log_uniform, s.integer)) == 1,
        ),
        Rule(
            "self.path != 'model.credentials' && !self.path.startsWith('model.credentials.')",
            "model.credentials cannot be searched: whoever creates the job must be allowed to read its Secret",
            lambda s: s.path != "model.credentials" and not s.path.startswith("model.credentials."),
            ".path",
        ),
        Rule(
            "!(" + " || ".join(f"self.path == '{path}' || self.path.startsWith('{path}.')" for path in _FIXED) + ")",
            "trials are compared on the same rows and by the same metric;"
            " dataset.train, validation, test and training.evaluation.bestMetric cannot be searched",
            lambda s: not any(s.path == path or s.path.startswith(f"{path}.") for path in _FIXED),
            ".path",
        ),
    )  # fmt: skip
    path: Path
    """Path of the field below spec, for example training.optimizer.learningRate. Any field of model, dataset, objective and training."""
    choice: Values | None = None
    """Values to choose from, of any type, for example [16, 32, 64] or [[query], [query, value]]."""
    uniform: RangeSpec | None = None
    """A range of numbers, for example {min: 0, max: 0.3}."""
    log_uniform: LogRangeSpec | None = None
    """A range of positive numbers over orders of magnitude, for example {min: 1e-5, max: 1e-3} for learning rates."""
    integer: IntegerRangeSpec | None = None
    """A range of integers, for example {min: 1, max: 5}."""
    when: WhenSpec | None = None
    """Search this field only if another parameter has one of these values. Otherwise the field keeps the value of this spec."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        # CEL does not see a list of values of any type
        members = ("choice", "uniform", "logUniform", "integer")
        one_of = {"oneOf": [{"required": [member]} for member in members]}
        return super().__get_pydantic_json_schema__(schema, handler) | one_of

    @property
    def listed(self) -> list[Any] | range | None:
        """All values, in order; None for a continuous range."""
        if self.choice is not None:
            return self.choice
        return self.integer.values if self.integer else None

    @property
    def extremes(self) -> list[Any]:
        """Values that stand for all: every choice, or the ends of a range."""
        if self.choice is not None:
            return self.choice
        ends = self.integer or self.uniform or self.log_uniform
        assert ends
        return [ends.min, ends.max]

    def applies(self, values: dict[str, Any]) -> bool:
        """Whether the field is searched, given the values of the other parameters."""
        return self.when is None or values.get(self.when.path) in self.when.values


class AshaSpec(ApiModel):
    """Asynchronous successive halving (Li et al. 2020), its stopping variant.

    At the rungs minEpochs, minEpochs × reductionFactor, … a trial continues only if its best value so far is among the best 1/reductionFactor of all trials that have reached the rung.
    """

    min_epochs: Annotated[float, Field(gt=0, le=100_000)] = 1
    """Epochs up to the first rung. No trial is pruned earlier."""
    reduction_factor: Annotated[int, Field(ge=2, le=16)] = 3
    """Share of trials that continue at a rung: one in this many."""


class PrunerSpec(OneOf):
    """How bad trials are ended early: exactly one member."""

    asha: AshaSpec | None = None
    """Asynchronous successive halving. {} uses the defaults."""


class ConfirmSpec(ApiModel):
    """Repeats the best trials with other seeds before the winner is named: among many trials the best value is often luck."""

    top: Annotated[int, Field(ge=1, le=9)] = 3
    """Number of trials to repeat, the best ones."""
    seeds: Annotated[int, Field(ge=1, le=9)] = 3
    """Number of repetitions of each: training.seed + 1, + 2 and so on."""


def _raised(field: str) -> Rule:
    return Rule(
        f"!has(oldSelf.{field}) ? !has(self.{field}) : has(self.{field}) && self.{field} >= oldSelf.{field}",
        f"spec.search.{field} can be raised, but not lowered, added or removed after creation",
    )


class SearchSpec(ApiModel):
    """Hyperparameter search: the job runs no training itself but creates trials, FineTuneJobs with other values in some fields."""

    rules = (
        Rule(
            "self.algorithm != 'Grid' || self.parameters.all(p, !has(p.uniform) && !has(p.logUniform))",
            "algorithm Grid needs choice or integer for every parameter; list the values, or use TPE or Random",
            lambda s: s.algorithm is not Algorithm.GRID or all(p.listed is not None for p in s.parameters),
            ".parameters",
        ),
        Rule(
            "self.parameters.all(p, !has(p.when) || self.parameters.exists(o, o.path == p.when.path && o.path != p.path && !has(o.when)))",
            "when.path must be the path of another parameter of this list, which has no when itself",
            lambda s: all(
                p.when is None
                or any(o.path == p.when.path and o.path != p.path and o.when is None for o in s.parameters)
                for p in s.parameters
            ),
            ".parameters",
        ),
        Rule(
            "self.parameters.all(p, !self.parameters.exists(o, p.path.startsWith(o.path + '.')))",
            "a path must not be inside the path of another parameter, which replaces it;"
            " give whole objects as choice instead, for example [{lora: {rank: 4}}, {lora: {rank: 8}}] for model.adapter",
            lambda s: not any(p.path.startswith(f"{o.path}.") for p in s.parameters for o in s.parameters),
            ".parameters",
        ),
        *map(_raised, ("maxTrials", "maxDeviceSeconds")),
        *(immutable("spec.search", field) for field in _IMMUTABLE),
    )
    algorithm: Algorithm = Algorithm.TPE
    """TPE learns from the trials so far (tree-structured Parzen estimator, Optuna), after 10 random ones. Random draws values independently. Grid runs every combination."""
    parameters: Annotated[list[ParameterSpec], Field(min_length=1, max_length=16), Unique("path")]
    """Fields to search and their values."""
    max_trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    """Maximum number of trials. Can be raised while the search runs. No combination is tried twice, so there are fewer if all values are listed and have fewer combinations. Default: 20; for Grid all combinations; required if these are more than 999."""
    parallelism: Annotated[int, Field(ge=1, le=64)] = 1
    """Number of trials that run at the same time. Can be changed at any time."""
    max_failed_trials: Annotated[int, Field(ge=0, le=MOST_TRIALS)] = 3
    """Number of failed trials that the search tolerates. One more ends it. Pruned trials, and trials that were suspended, evicted or preempted and resume, are not failed."""
    patience: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    """End the search after this many finished trials in a row without a new best value, for example 10. Default: never."""
    max_device_seconds: Annotated[int, Field(ge=1, le=10_000_000_000)] | None = None
    """Compute budget: seconds of training summed over all trials, times the GPUs of each, or times 1 on a CPU. When it is used up, the search ends and running trials stop. Can be raised while the search runs."""
    pruner: PrunerSpec | None = None
    """End bad trials early, for example {asha: {}}. Default: every trial trains to its end."""
    confirm: ConfirmSpec | None = None
    """Repeat the best trials with other seeds and name the one with the best mean, for example {top: 3, seeds: 3}. Default: the best trial wins."""
    keep_models: KeepModels = KeepModels.ALL
    """Models of the trials to keep. The best one is copied to output.uri in any case. All keeps those of the trials too, next to it in the folder MODEL-trials; Best removes them when the search has succeeded."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Seed of the algorithm. With the same seed and parallelism 1, the same trials are run. Default: training.seed."""

    @property
    def listed(self) -> bool:
        """Whether the values of every field are listed, so that there is a last combination."""
        return all(parameter.listed is not None for parameter in self.parameters)
