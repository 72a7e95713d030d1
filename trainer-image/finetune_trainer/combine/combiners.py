"""How models become one: by what they say, or by their weights. A new way is a class here and a line in COMBINERS."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune_api.combine import CombineRule
from finetune_trainer.combine.members import Member
from finetune_trainer.data.batching import Indices
from finetune_trainer.data.collation import collate
from finetune_trainer.data.tokens import Examples
from finetune_trainer.models.tokenizer import reset_tokenizer
from finetune_trainer.shipped import custom_head, ensemble
from finetune_trainer.shipped.ensemble import MEMBERS, RULES
from finetune_trainer.training.evaluate import Judge

Parts = dict[str, Examples]
"""The rows to score on, by the prefix of their metrics."""
Rule = Callable[[Tensor, bool], Tensor]
"""Of `ensemble.RULES`."""


class Combiner(ABC):
    """Hears of every member, and scores what they are together; `load` gives a model like theirs, `panel` a judge."""

    def __init__(self, load: Callable[[], Any], parts: Parts, panel: Judge) -> None:
        self.load, self.parts, self.panel = load, parts, panel
        self.members = 0

    def judge(self, model: Any, part: str) -> Judge:
        """Scores a member on a part of the rows."""
        del part
        return replace(self.panel, model=model)

    def took(self, model: Any) -> None:
        """A member was scored and is let go."""
        del model
        self.members += 1

    @abstractmethod
    def joint(self, part: str) -> Judge:
        """Scores the combination on a part of the rows."""

    @abstractmethod
    def write(self, folder: Path, members: list[Member], tokenizer: Any) -> tuple[str, list[str] | None]:
        """Write the combination into an empty folder; its format, and where in it the members are, if they are."""


class ByOutputs(Combiner):
    """Keeps what every member says of every row, or token: members x rows x outputs numbers in float32."""

    def __init__(self, rule: Rule, load: Callable[[], Any], parts: Parts, panel: Judge) -> None:
        super().__init__(load, parts, panel)
        self.rule, self.said = rule, {part: list[Tensor]() for part in parts}

    def judge(self, model: Any, part: str) -> Judge:
        """Scores a member and listens to it."""
        examples = self.parts[part]
        count = int(examples.offsets[-1]) if examples.per_token else len(examples)
        said = torch.zeros(count, self.panel.objective.outputs or 0)
        self.said[part].append(said)
        return _Listening(**vars(super().judge(model, part)), said=said)

    def joint(self, part: str) -> Judge:
        """Scores the rule's answer."""
        several = self.panel.objective.problem_type == "multi_label_classification"
        joint = self.rule(torch.stack(self.said[part]), several).float()
        return _Recited(**vars(replace(self.panel, model=nn.Module())), said=joint)

    def write(self, folder: Path, members: list[Member], tokenizer: Any) -> tuple[str, list[str] | None]:
        """The members as they are, and the files that load them."""
        del tokenizer  # every member has it
        folders = [f"{MEMBERS}/{number}" for number in range(len(members))]
        for member, place in zip(members, folders, strict=True):
            shutil.copytree(member.folder.path, folder / place)
        loaders = [ensemble, *([custom_head] if any(member.head for member in members) else [])]
        for loader in loaders:
            source = Path(str(loader.__file__))
            (folder / source.name).write_bytes(source.read_bytes())
        return "ensemble", folders


class ByWeights(Combiner):
    """The mean of the weights, a model soup (Wortsman et al. 2022): summed in float64, one model in size."""

    def __init__(self, load: Callable[[], Any], parts: Parts, panel: Judge) -> None:
        super().__init__(load, parts, panel)
        self._sums: dict[str, Tensor] = {}

    def took(self, model: Any) -> None:
        """Add its weights."""
        super().took(model)
        for name, tensor in model.state_dict().items():
            value = tensor.detach().double().cpu()
            self._sums[name] = self._sums[name].add_(value) if name in self._sums else value.clone()

    @cached_property
    def model(self) -> Any:
        """The averaged model, on the device of the others. Counters, which are whole numbers, are rounded down."""
        model = self.load()
        means = {
            name: (self._sums[name] / self.members).to(tensor.dtype)
            for name, tensor in model.state_dict().items()
        }
        model.load_state_dict(means)
        return model

    def joint(self, part: str) -> Judge:
        """Scores the averaged model."""
        return replace(self.panel, model=self.model)

    def write(self, folder: Path, members: list[Member], tokenizer: Any) -> tuple[str, list[str] | None]:
        """The averaged model as training would have written it."""
        self.model.save_pretrained(str(folder))
        reset_tokenizer(tokenizer)
        tokenizer.save_pretrained(str(folder))
        return "custom-head" if members[0].head else "safetensors", None


@dataclass(frozen=True)
class _Listening(Judge):
    said: Tensor = field(default_factory=lambda: torch.zeros(0))
    """(rows or tokens, outputs)"""

    def predict(self, examples: Examples, batch: Indices) -> tuple[Tensor, Tensor]:
        """As a judge does, and keep it."""
        logits, targets = super().predict(examples, batch)
        where, mask = _places(examples, batch)
        self.said[where] = (logits if mask is None else logits[mask.to(logits.device)]).cpu()
        return logits, targets


@dataclass(frozen=True)
class _Recited(Judge):
    said: Tensor = field(default_factory=lambda: torch.zeros(0))

    def predict(self, examples: Examples, batch: Indices) -> tuple[Tensor, Tensor]:
        """What was found before, in the form that a model gives it."""
        _, targets = collate(examples, batch, self.pad_id)
        where, mask = _places(examples, batch)
        if mask is None:
            return self.said[where], targets
        logits = torch.zeros(*mask.shape, self.said.shape[-1])
        logits[mask] = self.said[where]
        return logits, targets


def _places(examples: Examples, batch: Indices) -> tuple[Tensor, Tensor | None]:
    """Where the outputs of a batch are kept, and which of its positions (rows, longest) have one."""
    rows = torch.from_numpy(batch)
    if not examples.per_token:
        return rows, None
    starts, lengths = (torch.from_numpy(each[batch]) for each in (examples.offsets, examples.lengths))
    position = torch.arange(int(lengths.max()))
    mask = position < lengths[:, None]
    return (starts[:, None] + position)[mask], mask


COMBINERS: dict[CombineRule, Callable[[Callable[[], Any], Parts, Judge], Combiner]] = {
    CombineRule.AVERAGE_PROBABILITIES: partial(ByOutputs, RULES["AverageProbabilities"]),
    CombineRule.VOTE: partial(ByOutputs, RULES["Vote"]),
    CombineRule.AVERAGE_PREDICTIONS: partial(ByOutputs, RULES["AveragePredictions"]),
    CombineRule.AVERAGE_WEIGHTS: ByWeights,
}
