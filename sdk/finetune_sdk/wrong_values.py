"""What to write in place of a value that a field refuses, where the value shows what was meant. Pure."""

import re
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from enum import EnumType
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from finetune_api.base import QUANTITY_PATTERN, ApiModel, OneOf
from finetune_api.metrics import ALL, METRIC_PATTERN
from finetune_api.other_names import folded
from finetune_api.unknown_fields import object_in

_UNQUOTED = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?|true|false|yes|no|on|off", re.IGNORECASE)
"""Texts that YAML reads as a number or a boolean without quotes."""

_DURATION = re.compile(r"([0-9]+) ?(s|m|h|d|sec|min|hours?|minutes?|seconds?|days?)", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp])(i?)(b|bytes)?", re.IGNORECASE)

_WORDS = {
    "BFloat16": "bf16 torch.bfloat16 fp16 float16 half 16bit 16",
    "Float32": "fp32 float full torch.float32 no 32",
    "NF4": "4bit 4 int4 fp4 qlora bitsandbytes 8bit int8",
    "AdamW": "adam adamw_torch adamw_torch_fused adamw_hf paged_adamw_8bit paged_adamw_32bit adamw_8bit adamw_bnb_8bit",
    "Cosine": "cosine_with_restarts cosine_with_min_lr cosine_annealing",
    "Plateau": "reduce_lr_on_plateau",
    "WarmupStableDecay": "wsd",
    "Constant": "constant_with_warmup",
    "Polynomial": "poly",
    "Full": "full_shard fsdp fsdp2 zero3 true",
    "DPO": "sigmoid",
    "Messages": "chatml openai chat conversational",
    "PromptCompletion": "prompt_response input_output",
    "Required": "true",
    "Skip": "false off none",
    "Never": "false",
    "Always": "true",
    "Exact": "true",
    "None": "false no_shard ddp",
    "TPE": "bayesian bayes bayesianoptimization optuna",
    "Random": "randomsearch",
    "Grid": "gridsearch",
    "AverageProbabilities": "mean average soft",
    "AverageWeights": "soup modelsoup",
    "Vote": "majority voting hard",
    "accuracy": "acc",
    "f1": "f1_score f1_binary",
    "f1_macro": "macro_f1",
    "f1_micro": "micro_f1",
    "mcc": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "jsonl": "ndjson jsonlines",
    "text": "txt",
}
"""By each value, what other tools write for it."""
_VALUES = {(folded(word), value) for value, words in _WORDS.items() for word in words.split()}

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
SHAPES = {
    QUANTITY_PATTERN: "is no quantity of Kubernetes",
    METRIC_PATTERN: f"is no metric; use {', '.join(ALL)}",
    "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$": "is no name of an object, which has a-z, 0-9, '-' and '.'",
    f"^{_LABEL}$": "is no name, which has a-z, 0-9 and '-'",
    f"^{_DOMAIN}$": "is no name of a queue, which has a-z, 0-9, '-' and '.'",
    rf"^{_DOMAIN}/{_QUALIFIED}$": "is no extended resource: a domain, '/' and a name, such as amd.com/gpu",
    rf"^({_DOMAIN}/)?{_QUALIFIED}$": "is no key: letters, digits, '-', '_' and '.', after a domain and '/' where it"
    " has one",
    "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$": "is no value of a label, which has letters, digits, '-', '_' and"
    " '.'",
    "^[A-Za-z_][A-Za-z0-9_]*$": "is no name of a variable, which has letters, digits and '_', and begins with no digit",
    "^[-._a-zA-Z0-9]+$": "is no key of a Secret, which has letters, digits, '-', '_' and '.'",
    "^[!-~]+$": "is no name of an image: it has a space, or a letter beyond ASCII",
    r"^([0-9]{1,18}|(100|[0-9]{1,2})(\.[0-9]{1,3})?%)$": 'is neither a count such as 10 nor a share such as "1%"',
    r"^(model|dataset|objective|training)(\.[a-zA-Z0-9]+)+$": "is no field of model, dataset, objective or training,"
    " such as training.optimizer.learningRate",
}
"""By the pattern of a text, what a text is not that does not match it."""


def described(error: ErrorDetails, kind: type[ApiModel]) -> str:
    """The sentence about an error of `kind`, with what to write where the value shows it."""
    pattern = str((error.get("ctx") or {}).get("pattern"))
    if pattern not in SHAPES:
        return error["msg"].removeprefix("Value error, ") + _remedy_of(error, kind)
    return f"{str(error['input'])[:80]!r} {SHAPES[pattern]}{_remedy_of(error, kind)}"


def _remedy_of(error: ErrorDetails, kind: type[ApiModel]) -> str:
    """The end of the sentence about an error of `kind`, such as "; did you mean NF4?"; empty where nothing is known."""
    given, reason = error["input"], error["type"]
    field = str(error["loc"][-1]) if error["loc"] else ""
    if reason == "model_type":
        wanted = _object_at(error["loc"], kind)
        return _as_object(given, wanted) if wanted else ""
    if reason == "string_type" and isinstance(given, bool | int | float):
        habit = ": YAML reads yes, no, on and off as true and false" if isinstance(given, bool) else ""
        return f", not {str(given).lower()}{habit}; write it in quotes"
    if reason in ("int_type", "float_type", "bool_type") and isinstance(given, str):
        return f", not the text {given[:40]!r}" + _as_number(given, field)
    if reason in ("int_type", "int_from_float") and isinstance(given, float):
        return f", not {given}"
    if reason == "list_type":
        return _as_list(given)
    if reason in ("enum", "literal_error", "string_pattern_mismatch"):
        return _as_choice(given, error.get("ctx") or {})
    return ""


def _as_number(given: str, field: str) -> str:
    if "Seconds" in field and (found := _DURATION.fullmatch(given)):
        return f"; write {int(found[1]) * _SECONDS[found[2][0].lower()]}"
    return "; remove the quotes" if _UNQUOTED.fullmatch(given) else ""


def _as_list(given: Any) -> str:
    if isinstance(given, dict):
        return "; begin its item with '- '"
    if (
        isinstance(given, str)
        and not re.search(r"[\"']", given)
        and len(items := re.split(r"[,\s]+", given)) > 1
    ):
        return f"; write it in brackets: [{', '.join(items)}]"
    return f"; write it in brackets: [{given}]" if isinstance(given, str | int | float) else ""


def _as_choice(given: Any, expected: dict[str, Any]) -> str:
    text = str(given).lower() if isinstance(given, bool) else str(given)
    if expected.get("pattern") == QUANTITY_PATTERN:
        return _as_size(text)
    names = (
        ALL if expected.get("pattern") == METRIC_PATTERN else re.findall(r"\w+", expected.get("expected", ""))
    )
    meant = _meant(text, names)
    return f"; did you mean {meant}?" if meant else ""


def _meant(text: str, names: Collection[str]) -> str | None:
    """The name for which a text stands: in another spelling, of another tool, or misspelt."""
    wanted = folded(text)
    same = [name for name in names if folded(name) == wanted]
    elsewhere = [name for name in names if (wanted, name) in _VALUES]
    return next(iter([*same, *elsewhere, *get_close_matches(text, names, n=1, cutoff=0.75)]), None)


def _as_size(given: str) -> str:
    found = _SIZE.fullmatch(given.strip())
    if found is None:
        return "; write for example 4 or 500m (cpu), 16Gi or 500M (memory)"
    letter = found[2].upper()
    decimal = f"{found[1]}{'k' if letter == 'K' else letter}"
    return f"; did you mean {found[1]}{letter}i, in powers of 1024, or {decimal}, in powers of 1000?"


def _object_at(place: tuple[int | str, ...], kind: type[ApiModel]) -> type[ApiModel] | None:
    """The type of the object at a place of a `kind`; None in lists and maps."""
    found: type[ApiModel] | None = kind
    for name in place:
        fields = {each.alias or own: each for own, each in found.model_fields.items()} if found else {}
        found = object_in(fields[str(name)].annotation) if str(name) in fields else None
    return found


def _as_object(given: Any, wanted: type[ApiModel]) -> str:
    """A value in place of the object that holds it: 0.1 for {ratio: 0.1}, cosine for {name: Cosine}."""
    if given is False:
        return ", not false; remove it for the default"
    fields = {field.alias or name: field for name, field in wanted.model_fields.items()}
    holding = [each for each in _holding(given, fields) if _fits(each, wanted)]
    if not holding:
        needed = issubclass(wanted, OneOf)
        holding = [{name: "..."} for name, field in fields.items() if needed or field.is_required()]
    return f"; write for example {' or '.join(map(_flow, holding[:2]))}" if holding else ""


def _holding(given: Any, fields: dict[str, FieldInfo]) -> Iterator[dict[str, Any]]:
    """Objects that could be meant, valid or not."""
    if given is True:
        yield {}
        yield from ({name: {}} for name in fields)
    elif isinstance(given, int | float):
        yield from ({name: given} for name in fields)
    elif isinstance(given, str):
        yield from ({name: {}} for name in fields if folded(name) == folded(given))
        for name, field in fields.items():
            kind = field.annotation
            members = list(kind.__members__.values()) if isinstance(kind, EnumType) else []
            if meant := _meant(given, [str(member) for member in members]):
                yield {name: meant}
        yield {"uri": given}


def _fits(value: dict[str, Any], wanted: type[ApiModel]) -> bool:
    try:
        wanted.from_json(value)
    except ValidationError:
        return False
    return True


def _flow(value: dict[str, Any]) -> str:
    """As YAML writes it in one line."""
    return "{" + ", ".join(f"{name}: {'{}' if inner == {} else inner}" for name, inner in value.items()) + "}"
