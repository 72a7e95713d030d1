"""What of the base model's head is continued: all of it with its rows matched by label, or nothing.

A head of the right shape may still be that of other labels, of the same labels in another order, or of another task.
So names decide, never the shape alone, and every choice comes with the sentence that the log, the status and the card
show.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.model import HeadSpec
from finetune_trainer.objectives import Objective
from finetune_trainer.objectives.labels import named

if TYPE_CHECKING:
    from torch import nn

DESCRIPTION = "custom_head.json"
"""As `shipped.custom_head`, which imports torch, calls it."""
UNNAMED = re.compile(r"LABEL_(\d+)")
"""The names that transformers gives to labels without names."""
NO_HEAD = "the base model has none for this objective"
SHAPE = ("hidden_sizes", "batch_norm", "pooling")
"""What of a custom head's description decides its tensors and what they see."""


@dataclass(frozen=True)
class HeadChoice:
    """Which head a run starts with, and why."""

    order: list[int] | None
    """The base model's output for each output of this run; None for a new head."""
    reason: str
    replaced: bool = False
    """The base model has a trained head, which is not used."""

    @property
    def sentence(self) -> str:
        """For people."""
        return f"{'new head' if self.order is None else 'the head of the base model is continued'}: {self.reason}"


@dataclass(frozen=True)
class BaseHead:
    """The head that a model's folder has, as its files describe it."""

    names: list[str]
    problem_type: str | None
    architecture: str | None
    """The class of transformers that wrote the folder; None where config.json does not say."""
    custom: dict[str, Any] | None
    """custom_head.json."""


def base_head_of(folder: Path, config: Any) -> BaseHead:
    """From the folder's config.json, before this run's labels are put into it."""
    description = folder / DESCRIPTION
    return BaseHead(
        names=[str(name) for _, name in sorted(config.id2label.items())],
        problem_type=config.problem_type,
        architecture=next(iter(config.architectures or []), None),
        custom=json.loads(description.read_text()) if description.exists() else None,
    )


def described(spec: HeadSpec) -> dict[str, Any]:
    """The part of a custom head's description that decides its tensors and what they see."""
    return {
        "hidden_sizes": spec.hidden_sizes or [],
        "batch_norm": spec.batch_norm,
        "pooling": spec.pooling.value,
    }


def choose_head(
    base: BaseHead, objective: Objective[Any], architecture: str, head: HeadSpec | None, *, lacking: bool
) -> HeadChoice:
    """Whether the head of the base model fits this objective; `architecture` is the class that this run builds.

    `lacking`: the folder has no weights under the names of a head of this architecture.
    """
    if head is not None:
        return _custom(base, objective, head)
    if lacking and (base.custom is None or objective.outputs is None):
        return HeadChoice(None, NO_HEAD)
    if objective.outputs is None:
        return HeadChoice([], "it predicts the tokens of the vocabulary")
    if base.custom is not None:
        return _new(
            "the base model's head (custom_head.json) is continued only with the same model.head", base
        )
    if base.architecture not in (None, architecture):
        return _new(f"the base model is a {base.architecture}, and this job trains a {architecture}", base)
    return _by_names(base, objective)


def _custom(base: BaseHead, objective: Objective[Any], head: HeadSpec) -> HeadChoice:
    if base.custom is None:
        return _new("model.head asks for layers that the base model does not have", base)
    different = [key for key in SHAPE if base.custom.get(key) != described(head)[key]]
    if different:
        found = ", ".join(f"{key} {json.dumps(base.custom.get(key))}" for key in different)
        return _new(f"that of the base model has {found}, and model.head asks for another", base)
    return _by_names(base, objective)


def _by_names(base: BaseHead, objective: Objective[Any]) -> HeadChoice:
    wanted, found = objective.output_names or [], base.names
    if not _same_task(base, objective):
        kind = (base.problem_type or "single_label_classification").replace("_", " ")
        task = (objective.problem_type or "").replace("_", " ")
        return _new(f"that of the base model is for {kind}, and this job is for {task}", base)
    if len(found) != len(wanted):
        return _new(
            f"that of the base model has {len(found)} outputs, and this job needs {len(wanted)}", base
        )
    if found == wanted:
        return HeadChoice(list(range(len(wanted))), f"it has the same outputs ({named(wanted)})")
    if sorted(found) == sorted(wanted) and len(set(found)) == len(found):
        return HeadChoice(
            [found.index(name) for name in wanted],
            f"its rows are reordered by label from {named(found)} to {named(wanted)}",
        )
    order = _by_number(found, wanted, numbers=objective.problem_type == "regression")
    if order is not None:
        return HeadChoice(
            order, f"its outputs {named(found)} are matched by index with the labels {named(wanted)}"
        )
    return _new(f"the outputs of the base model are {named(found)}, and this job's are {named(wanted)}", base)


def _same_task(base: BaseHead, objective: Objective[Any]) -> bool:
    """Heads for words have no problem type; one of transformers without it is single-label, or regression."""
    if objective.problem_type is None or objective.problem_type == base.problem_type:
        return True
    one = "regression" if len(base.names) == 1 else "single_label_classification"
    return base.problem_type is None and objective.problem_type == one


def _by_number(found: list[str], wanted: list[str], *, numbers: bool) -> list[int] | None:
    """Where one side has names and the other has numbers from 0 on; `numbers`: the outputs are no labels at all."""
    ours, theirs = _places(wanted), _places(found)
    if numbers and theirs == list(range(len(found))):
        return theirs
    if ours is None or theirs is None:
        return None
    return [theirs.index(place) for place in ours]


def _places(names: list[str]) -> list[int] | None:
    """0 … n-1 in the order of `LABEL_i`, or of i; None for names of another kind."""
    digits = [match[1] if (match := UNNAMED.fullmatch(name)) else name for name in names]
    if any(str(place) not in digits for place in range(len(names))):
        return None
    return [int(digit) for digit in digits]


def _new(reason: str, base: BaseHead) -> HeadChoice:
    """A new head in place of a trained one, as far as config.json tells."""
    trained = base.custom is not None or "Classification" in (base.architecture or "")
    return HeadChoice(None, reason, replaced=trained)


def head_modules(model: Any) -> "Iterator[nn.Module]":
    """The modules beside the body of a model of transformers."""
    body = model.base_model
    if body is not model:
        yield from (module for module in model.children() if module is not body)


def draw_again(model: Any) -> None:
    """Give the head of a model of transformers new weights, as its architecture begins."""
    for part in head_modules(model):
        for module in part.modules():
            module._is_hf_initialized = False  # type: ignore[assignment]
        for parameter in part.parameters():
            parameter._is_hf_initialized = False  # type: ignore[attr-defined]
    model.initialize_weights()


def reorder(head: "Iterator[nn.Module]", order: list[int]) -> None:
    """Put the rows of the head's last layer into this order."""
    import torch
    from torch.nn import Linear

    layers = [module for part in head for module in part.modules() if isinstance(module, Linear)]
    last = [layer for layer in layers if layer.out_features == len(order)][-1]
    with torch.no_grad():
        for tensor in (last.weight, last.bias):
            if tensor is not None:
                tensor.copy_(tensor[order])
