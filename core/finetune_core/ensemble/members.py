"""The values of an ensemble's members, and what is wrong with them. Pure."""

from finetune_api.combine import RULES, SOUPS
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.overrides import OverrideError, overridden
from finetune_core.plan.finetunejob import of_one_run
from finetune_core.search.plan import merge_adapter, reseeded
from finetune_core.search.space import Values, incomparable

_ROOTS = ("model", "objective", "training")
_START = ("model.uri", "model.initialize", "model.head")
"""What decides the weights that training starts from, and their shapes."""
_OTHERS = {field.alias for field in FineTuneJobSpec.model_fields.values()} - {*_ROOTS, "dataset"}


def values_of(spec: FineTuneJobSpec, member: int) -> Values:
    """What a member, counted from 1, has other than the job: its item of overrides, else another seed."""
    assert spec.ensemble
    if spec.ensemble.overrides is not None:
        return spec.ensemble.overrides[member - 1]
    return reseeded(spec, {}, member - 1)


def fault_in(spec: FineTuneJobSpec) -> str | None:
    """What is wrong with the ensemble, with the place, before the first member trains."""
    assert spec.ensemble
    for index, values in enumerate(spec.ensemble.overrides or []):
        if why := _fault_of(spec, values):
            return f"spec.ensemble.overrides[{index}]: {why}"
    trained = [_trained(spec, values) for values in spec.ensemble.overrides or []]
    for second, member in enumerate(trained):
        if (first := trained.index(member)) < second:
            return (
                f"spec.ensemble.overrides[{second}]: it trains the same model as overrides[{first}]; give members other"
                " seeds or other values"
            )
    for index, parameter in enumerate(spec.search.parameters if spec.search else []):
        if why := _unfit(spec, parameter.path):
            return f"spec.search.parameters[{index}]: {parameter.path}: {why}"
    return None


def _fault_of(spec: FineTuneJobSpec, values: Values) -> str | None:
    for path, value in values.items():
        root, dot, _ = path.partition(".")
        if why := _unfit(spec, path):
            return f"{path}: {why}"
        if root in _OTHERS:
            return f"{path}: members can differ in fields of {', '.join(_ROOTS)} only; remove it"
        if root in _ROOTS and not dot:
            below = next(iter(value), "") if isinstance(value, dict) else ""
            return f"{path}: write the path of each field that differs, for example {path}.{below or 'seed'}"
    try:
        overridden(of_one_run(spec), values, FineTuneJobSpec, _ROOTS)
    except OverrideError as error:
        return str(error)
    return incomparable(spec, values, "train it with a separate FineTuneJob")


def _unfit(spec: FineTuneJobSpec, path: str) -> str | None:
    """Why members cannot differ in a field.

    The combination reads each text once, for all of them; a soup is the mean of weights that started as the same.
    """
    assert spec.ensemble and spec.objective
    if path.split(".")[0] == "dataset" or path.startswith("model.tokenizer"):
        return "the members of an ensemble read the same rows as the same tokens; remove it"
    if f"{path}.".startswith("model.credentials."):
        return "whoever creates the job must be allowed to read its Secret; remove it, the members have that of the job"
    if path == "model.adapter.lora.merge":
        return "the members of an ensemble are published merged; remove it"
    rule = spec.ensemble.rule(spec.objective.kind)
    if rule in SOUPS and any(f"{path}.".startswith(f"{field}.") for field in _START):
        others = [other for other in RULES[spec.objective.kind] if other not in SOUPS]
        use = f"set spec.ensemble.combine: {others[0]}, or remove it" if others else "remove it"
        return f"{rule} averages weights that start as the same in the same architecture; {use}"
    return None


def _trained(spec: FineTuneJobSpec, values: Values) -> FineTuneJobSpec:
    """What a member trains, with the defaults written out."""
    wire = overridden(of_one_run(spec), values, FineTuneJobSpec)
    merge_adapter(wire)
    member = FineTuneJobSpec.from_json(wire)
    return member.model_copy(update={"training": member.resolved_training()})
