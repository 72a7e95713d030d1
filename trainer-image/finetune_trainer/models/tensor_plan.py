"""Which layers of a model the ranks of a tensor group divide: transformers' own plan for the architecture, checked.

A layer that is divided by columns has some of its outputs on each rank; one that is divided by rows takes some of its
inputs, and adds up what the ranks found (Shoeybi et al. 2019)."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from finetune_api.run import FaultPlace
from finetune_trainer.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import nn

FIELD = "training.tensorParallel"
ATTENTION_DROPOUT = ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "attn_dropout")
"""Names in a configuration of the probability by which scores of attention are dropped."""


class Style(StrEnum):
    """How a layer is divided, as transformers names it."""

    COLUMNS = "colwise"
    COLUMNS_GATHERED = "colwise_gather_output"
    """Every rank then gets all outputs."""
    ROWS = "rowwise"
    ROWS_OF_WHOLE = "rowwise_split_input"
    """Every rank has all inputs."""
    BY_HEADS = "replicated_with_grad_allreduce"
    """A norm that every rank has, and applies to its own heads."""


COLUMN_STYLES = (Style.COLUMNS, Style.COLUMNS_GATHERED)
Plan = dict["nn.Module", Style]
"""Of the modules of one model; an adapted layer is there itself, not the parts of it."""


@dataclass(frozen=True)
class _Model:
    """What a plan is made for."""

    inner: Any
    """Without an adapter's wrapper."""
    name: str
    """For messages."""
    size: int
    """Of a tensor group."""

    def refused(self, reason: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(
            f"{FIELD}: {self.name} cannot be divided over {self.size} GPUs: {reason}; {remedy}",
            FaultPlace(field=FIELD),
        )


def tensor_plan(model: Any, size: int, name: str) -> Plan:
    """The layers of a model that `size` ranks divide, of its body, and its last layer where that can be divided.

    A last layer that shares its weights with the embeddings, or whose outputs `size` does not divide, stays whole on
    every rank, as do all heads of other tasks. Raises ConfigurationError for a model without a plan, and for a plan
    that fits no module, asks for what is not supported, or divides what `size` does not divide.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    of = _Model(inner, name, size)
    body = inner.base_model
    rules = getattr(body.config, "base_model_tp_plan", None)
    if not rules:
        raise of.refused(
            f"transformers has no plan for {type(body).__name__}",
            f"remove {FIELD}, and set training.sharding: Full for a model that is larger than one GPU",
        )
    _check_heads(of, body.config)
    plan: Plan = {}
    for pattern, style in rules.items():
        if style not in set(Style):
            raise of.refused(
                f"its plan has {style} for {pattern}, which is not supported",
                "set training.sharding: Full instead",
            )
        found = _matching(body, pattern)
        if not found:
            raise of.refused(
                f"its plan names {pattern}, and the model has no such layer",
                "the model would stay whole there; set training.sharding: Full instead",
            )
        for path, module in found:
            _check_layer(of, path, module, Style(style))
            plan[module] = Style(style)
    return plan | _head(of)


def check_tensor_groups(processes: int, size: int) -> None:
    """Raise ConfigurationError where groups of this size leave processes over."""
    if processes % size:
        has = f"{processes} process{'es' * (processes > 1)}"
        remedy = f"set {FIELD} to a number that divides them, or ask for more GPUs"
        if processes < size:
            remedy = f"remove it, or ask for {size} GPUs"
        raise ConfigurationError(
            f"{FIELD} is {size}, which does not divide the {has} of this run, one for each GPU; {remedy}",
            FaultPlace(field=FIELD),
        )


def base_layer(module: "nn.Module") -> Any:
    """The linear layer itself, under an adapter."""
    return getattr(module, "base_layer", module)


def _matching(body: "nn.Module", pattern: str) -> "list[tuple[str, nn.Module]]":
    """Modules of the body that a key of a plan names, where * is the number of a layer."""
    wanted = re.compile(re.escape(pattern).replace(r"\*", r"\d+"))
    return [(path, module) for path, module in body.named_modules() if wanted.fullmatch(path)]


def _check_heads(of: _Model, config: Any) -> None:
    """Raise ConfigurationError for attention that the ranks cannot divide by heads."""
    for field in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, field, None)
        if isinstance(heads, int) and heads % of.size:
            raise of.refused(
                f"{field} of its config.json is {heads}", f"set {FIELD} to a number that divides it"
            )
    for field in ATTENTION_DROPOUT:
        if getattr(config, field, 0):
            raise of.refused(
                f"{field} is {getattr(config, field)}, and the ranks would drop the same scores of different heads",
                "set model.dropout: 0",
            )


def _check_layer(of: _Model, path: str, module: "nn.Module", style: Style) -> None:
    """Raise ConfigurationError for a layer that cannot be divided in this way."""
    from torch import nn

    layer = base_layer(module)
    if style is Style.BY_HEADS:
        config = of.inner.base_model.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        if sum(parameter.numel() for parameter in layer.parameters()) != size:
            raise of.refused(f"{path} is not a norm of single heads", "set training.sharding: Full instead")
        return
    if not isinstance(layer, nn.Linear):
        raise of.refused(
            f"its plan divides {path}, which is {type(layer).__name__} and no linear layer",
            "set training.sharding: Full instead",
        )
    side, width = ("outputs", layer.out_features) if style in COLUMN_STYLES else ("inputs", layer.in_features)
    if width % of.size:
        raise of.refused(f"{path} has {width} {side}", f"set {FIELD} to a number that divides them")


def _head(of: _Model) -> Plan:
    """The last layer of a language model, where its plan divides it by columns."""
    from torch import nn

    inner = of.inner
    layer = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    rules = getattr(type(inner), "_tp_plan", None) or {}
    paths = [path for path, module in inner.named_modules() if module is layer]
    divided = any(rules.get(path) == Style.COLUMNS_GATHERED for path in paths)
    linear = base_layer(layer) if layer is not None else None
    if (
        layer is None
        or not divided
        or not isinstance(linear, nn.Linear)
        or linear.out_features % of.size
        or linear.weight is inner.get_input_embeddings().weight
    ):
        return {}
    return {layer: Style.COLUMNS_GATHERED}


def bytes_saved(model: Any, plan: Plan, size: int, *, trained: bool) -> int:
    """How much less a rank of a tensor group has than the whole model: of all weights, or of the `trained` ones."""
    return sum(
        parameter.numel() * parameter.element_size() * (size - 1) // size
        for module, style in plan.items()
        if style is not Style.BY_HEADS
        for parameter in base_layer(module).parameters()
        if parameter.requires_grad or not trained
    )
