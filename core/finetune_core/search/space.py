"""The searched fields: their values in a trial's spec, and what is wrong with them. Pure."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import Any

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.metrics import plain
from finetune_api.overrides import OverrideError, overridden
from finetune_api.search import MOST_TRIALS, Algorithm, ParameterSpec, SearchSpec
from finetune_core.plan.finetunejob import of_one_run

Values = dict[str, Any]
"""Values of the searched fields by path; a field that does not apply is absent."""

MOST_COMBINATIONS = 10_000
"""Of a grid; more would keep the operator busy for seconds at each trial."""
_LONGEST_VALUE = 256
_TRIED_WITH_OTHERS = 256
_CHANGES_THE_LOSS = ("labelSmoothing", "classWeights", "loss", "normalize", "beta", "sftWeight", "margin")
_OF_THE_LOSS = ("loss", "perplexity", "rewards_chosen", "rewards_rejected", "rewards_margin")
"""Metrics in units that these fields change."""
_CLEANING = ("unicode", "stripMarkup", "collapseWhitespace", "lowercase")
_TRUNCATION = ("maxLength", "truncation")


def fault_in(spec: FineTuneJobSpec) -> str | None:
    """What is wrong with the searched fields, with the place.

    An unknown path, a value that the field refuses, trials that cannot be compared, a condition that never holds, or a
    grid that is too large.
    """
    assert spec.search
    found = (
        fault and f"spec.search.parameters[{index}]{fault}"
        for index, parameter in enumerate(spec.search.parameters)
        for fault in (_fault_of(spec, parameter), _never_holds(spec.search, parameter))
    )
    return next(filter(None, found), None) or _too_large(spec)


def _fault_of(spec: FineTuneJobSpec, parameter: ParameterSpec) -> str | None:
    base = of_one_run(spec)
    for value in parameter.extremes:
        if len(json.dumps(value)) > _LONGEST_VALUE:
            return f".choice: a value is longer than {_LONGEST_VALUE} characters as JSON; shorten it"
        values = {parameter.path: value} | _needed_by(parameter)
        try:
            overridden(base, values, FineTuneJobSpec)
        except OverrideError as error:
            values = next((each for each in _with_others(spec, values) if fits(spec, each)), {})
            if not values:
                whole = parameter.listed is None and "valid integer" in str(error)
                hint = "; give whole numbers by integer or choice" if whole else ""
                return f": {parameter.path} = {json.dumps(value)} is refused: {error}{hint}"
        if why := incomparable(spec, values, "search it with one FineTuneJob for each value"):
            return f": {parameter.path} = {json.dumps(value)} {why}"
    return None


def _with_others(spec: FineTuneJobSpec, values: Values) -> Iterator[Values]:
    """Values together with some of the other parameters: rules between fields may ask for both."""
    assert spec.search
    others = [parameter for parameter in spec.search.parameters if parameter.path not in values]
    for combination in islice(product(*[other.extremes for other in others]), _TRIED_WITH_OTHERS):
        tried = {other.path: value for other, value in zip(others, combination, strict=True)} | values
        yield {other.path: tried[other.path] for other in others if other.applies(tried)} | values


def _needed_by(parameter: ParameterSpec) -> Values:
    return {parameter.when.path: parameter.when.values[0]} if parameter.when else {}


def _never_holds(search: SearchSpec, parameter: ParameterSpec) -> str | None:
    """A value of a condition that its parameter never has: the field would not be searched, without a word."""
    if parameter.when is None:
        return None
    other = next(one for one in search.parameters if one.path == parameter.when.path)
    if other.listed is None:
        return (
            f".when: {other.path} is a range of numbers; a condition needs a parameter with choice or integer"
        )
    unknown = next((value for value in parameter.when.values if value not in other.listed), other)
    if unknown is other:
        return None
    return f".when: {other.path} never has the value {json.dumps(unknown)}; write values that it is searched with"


def incomparable(spec: FineTuneJobSpec, values: Values, remedy: str) -> str | None:
    """What the values change of how runs are evaluated: the best number would not be that of the best model."""
    changed = FineTuneJobSpec.from_json(overridden(of_one_run(spec), values, FineTuneJobSpec))
    metric = plain(_best_metric(spec))
    for (field, mine), (_, theirs) in zip(_evaluated_by(spec), _evaluated_by(changed), strict=False):
        if mine != theirs:
            return (
                f"changes {field}, and models are compared on the same rows, labels and tokens, by the same metric;"
                f" {remedy}"
            )
    if metric in _OF_THE_LOSS and _loss_of(spec) != _loss_of(changed):
        return (
            f"changes how {metric} is computed, so models cannot be compared by it;"
            " set training.evaluation.bestMetric to another metric"
        )
    return None


def _best_metric(spec: FineTuneJobSpec) -> str:
    training = spec.resolved_training()
    return training.evaluation.best_metric if training else "loss"


def _evaluated_by(spec: FineTuneJobSpec) -> Iterator[tuple[str, Any]]:
    """The fields that decide on which rows, labels and tokens a trial is evaluated, and by which metric."""
    assert spec.objective and spec.dataset and spec.model
    ((kind, objective),) = spec.objective.to_json().items()
    dataset, model = spec.dataset.to_json(), spec.model
    cleaning = dataset["preprocessing"]
    yield "the objective", kind
    yield "training.evaluation.bestMetric", _best_metric(spec)
    yield "training.evaluation.forgetting", spec.training.evaluation.forgetting if spec.training else []
    yield f"objective.{kind}", {name: objective[name] for name in objective if name not in _CHANGES_THE_LOSS}
    yield "dataset.columns.label", dataset["columns"]["label"]
    yield "dataset.maxInvalidRows", dataset["maxInvalidRows"]
    yield "dataset.preprocessing.deduplicate", cleaning["deduplicate"]
    texts = {name: cleaning[name] for name in _CLEANING}
    if dataset["maxInvalidRows"] not in ("0", "0%") or cleaning["deduplicate"] != "None":
        yield "which rows are dropped", (dataset["columns"], texts, cleaning["minCharacters"])
    if kind in ("tokenClassification", "causalLM", "preference"):
        yield "which tokens are evaluated", {name: cleaning[name] for name in _TRUNCATION}
    if kind == "preference":
        yield "whether rows are pairs", objective.get("loss") == "KTO"
    if kind in ("causalLM", "preference"):
        yield "the texts whose tokens are predicted", (dataset["columns"], dataset.get("rows"), texts)
        yield "the tokenizer (set model.tokenizer.uri)", model.tokenizer.uri if model.tokenizer else model.uri


def _loss_of(spec: FineTuneJobSpec) -> Any:
    assert spec.objective
    (objective,) = spec.objective.to_json().values()
    return [objective.get(name) for name in _CHANGES_THE_LOSS]


def _too_large(spec: FineTuneJobSpec) -> str | None:
    """A grid that would be cut without a word, or is too large to count."""
    search = spec.search
    assert search
    if search.algorithm is not Algorithm.GRID:
        return None
    size = sum(1 for _ in islice(_combined(search.parameters, {}), MOST_COMBINATIONS + 1))
    if size > MOST_COMBINATIONS:
        return (
            f"spec.search.parameters: a grid of more than {MOST_COMBINATIONS:,} combinations; list fewer values, or use"
            " TPE or Random"
        )
    cut = search.max_trials is None and size > MOST_TRIALS
    if cut and len(combinations(spec, MOST_TRIALS + 1)) > MOST_TRIALS:
        return (
            f"spec.search.maxTrials: the grid has more than {MOST_TRIALS} combinations; set maxTrials to run the first"
            " of them, or list fewer values"
        )
    return None


def fits(spec: FineTuneJobSpec, values: Values) -> bool:
    """Whether the spec takes these values together."""
    try:
        overridden(of_one_run(spec), values, FineTuneJobSpec)
    except OverrideError:
        return False
    return True


def values_in(spec: dict[str, Any], parameters: list[ParameterSpec]) -> Values:
    """The values of the searched fields in the wire form of a trial's spec."""
    found = {parameter.path: _listed(parameter, _at(spec, parameter.path)) for parameter in parameters}
    return {parameter.path: found[parameter.path] for parameter in parameters if parameter.applies(found)}


def _listed(parameter: ParameterSpec, found: Any) -> Any:
    """The choice that was made: the API server has filled in defaults since, for what it does not say or for null."""
    if parameter.choice is None or found in parameter.choice:
        return found
    made = [choice for choice in parameter.choice if _says(choice, found)]
    return max(made, key=lambda choice: len(json.dumps(choice))) if made else found


def _says(choice: Any, found: Any) -> bool:
    if isinstance(choice, dict) and isinstance(found, dict):
        return all(_says(value, found.get(name)) for name, value in choice.items())
    return choice is None or choice == found


def _at(document: Any, path: str) -> Any:
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def grid(search: SearchSpec) -> Iterator[Values]:
    """Every combination of listed values, the last parameter changing first; none is made before it is asked for."""
    seen: set[str] = set()
    for values in islice(_combined(search.parameters, {}), MOST_COMBINATIONS):
        kept = {p.path: values[p.path] for p in search.parameters if p.path in values and p.applies(values)}
        text = json.dumps(kept)
        if text not in seen:  # a value that is listed twice, or a field that turns out not to apply
            seen.add(text)
            yield kept


def _combined(parameters: Sequence[ParameterSpec], values: Values) -> Iterator[Values]:
    if not parameters:
        yield values
        return
    first, rest = parameters[0], parameters[1:]
    if first.when and first.when.path in values and not first.applies(values):
        yield from _combined(rest, values)
        return
    for value in first.listed or []:
        yield from _combined(rest, values | {first.path: value})


def combinations(spec: FineTuneJobSpec, most: int) -> list[Values]:
    """The first combinations of a grid that the spec takes."""
    assert spec.search
    return list(islice((values for values in grid(spec.search) if fits(spec, values)), most))
