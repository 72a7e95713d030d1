"""The searched fields: their values in a trial's spec, and what is wrong with them. Pure."""

import json
from collections.abc import Iterator
from itertools import islice, product
from typing import Any

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.metrics import plain
from finetune_api.overrides import OverrideError, overridden
from finetune_api.search import ParameterSpec, SearchSpec

Values = dict[str, Any]
"""Values of the searched fields by path; a field that does not apply is absent."""

_LONGEST_VALUE = 256
_CHANGES_THE_LOSS = ("labelSmoothing", "classWeights", "loss", "huberDelta", "normalize")


def fault_in(spec: FineTuneJobSpec) -> str | None:
    """What is wrong with the searched fields, with the place: an unknown path, or a value that the field refuses."""
    assert spec.search
    base = without_search(spec)
    for index, parameter in enumerate(spec.search.parameters):
        place = f"spec.search.parameters[{index}]"
        if fault := _incomparable(parameter, spec):
            return f"{place}: {fault}"
        for value in parameter.extremes:
            if len(json.dumps(value)) > _LONGEST_VALUE:
                return (
                    f"{place}.choice: a value is longer than {_LONGEST_VALUE} characters as JSON; shorten it"
                )
            try:
                overridden(base, {parameter.path: value} | _needed_by(parameter), FineTuneJobSpec)
            except OverrideError as error:
                return f"{place}: {parameter.path} = {json.dumps(value)} is refused: {error}"
    return None


def _needed_by(parameter: ParameterSpec) -> Values:
    return {parameter.when.path: parameter.when.values[0]} if parameter.when else {}


def _incomparable(parameter: ParameterSpec, spec: FineTuneJobSpec) -> str | None:
    """A field that changes how the loss is computed: the smallest loss would not be that of the best model."""
    training = spec.resolved_training()
    metric = plain(training.evaluation.best_metric) if training else "loss"
    if metric not in ("loss", "perplexity") or not parameter.path.startswith("objective."):
        return None
    if parameter.path.rpartition(".")[2] not in _CHANGES_THE_LOSS:
        return None
    return (
        f"{parameter.path} changes how {metric} is computed, so trials cannot be compared by it;"
        " set training.evaluation.bestMetric to another metric"
    )


def without_search(spec: FineTuneJobSpec) -> dict[str, Any]:
    """The wire form of a spec without its search."""
    return {name: value for name, value in spec.to_json().items() if name != "search"}


def fits(spec: FineTuneJobSpec, values: Values) -> bool:
    """Whether the spec takes these values together."""
    try:
        overridden(without_search(spec), values, FineTuneJobSpec)
    except OverrideError:
        return False
    return True


def values_in(spec: dict[str, Any], parameters: list[ParameterSpec]) -> Values:
    """The values of the searched fields in the wire form of a trial's spec."""
    found = {parameter.path: _at(spec, parameter.path) for parameter in parameters}
    return {parameter.path: found[parameter.path] for parameter in parameters if parameter.applies(found)}


def _at(document: Any, path: str) -> Any:
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def grid(search: SearchSpec) -> Iterator[Values]:
    """Every combination of listed values, the last parameter changing first."""
    parameters = search.parameters
    seen: set[str] = set()
    for combination in product(*[parameter.listed or [] for parameter in parameters]):
        values = {parameter.path: value for parameter, value in zip(parameters, combination, strict=True)}
        kept = {p.path: values[p.path] for p in parameters if p.applies(values)}
        text = json.dumps(kept)
        if text not in seen:  # combinations that differ only in fields that do not apply
            seen.add(text)
            yield kept


def combinations(spec: FineTuneJobSpec, most: int) -> list[Values]:
    """The first combinations of a grid that the spec takes."""
    assert spec.search
    return list(islice((values for values in grid(spec.search) if fits(spec, values)), most))
