"""How models become one: by their outputs, or by their weights. A new way is a class here and a line in COMBINERS."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from finetune_trainer.training.evaluator import Predict
from finetune_trainer.training.task import Task

Parts = dict[str, Examples]
"""The rows to score on, by the prefix of their metrics."""
Rule = Callable[[Tensor, bool], Tensor]
"""Of `ensemble.RULES`."""


class Combiner(ABC):
    """Takes up every member, and is then scored as one model; `load` gives a task with a model like theirs."""

    def __init__(self, load: Callable[[], Task], parts: Parts) -> None:
        self.load, self.parts = load, parts
        self.members = 0

    def predict_member(self, task: Task, part: str) -> Predict:
        """How a member predicts a part of the rows."""
        del part
        return task.predict

    def add_member(self, task: Task) -> None:
        """Take up a member that was scored."""
        del task
        self.members += 1

    @abstractmethod
    def combined(self) -> Task:
        """The combination, once all members were added."""

    @abstractmethod
    def predict_combined(self, part: str) -> Predict:
        """How the combination predicts a part of the rows."""

    @abstractmethod
    def write(self, folder: Path, members: list[Member], tokenizer: Any) -> tuple[str, list[str] | None]:
        """Write the combination into an empty folder; its format, and where in it the members are, if they are."""


class OutputEnsemble(Combiner):
    """Keeps the outputs of every member for every row, or token: members x rows x outputs numbers in float32."""

    def __init__(self, rule: Rule, load: Callable[[], Task], parts: Parts) -> None:
        super().__init__(load, parts)
        self.rule, self.outputs = rule, {part: list[Tensor]() for part in parts}
        self._task: Task | None = None

    def predict_member(self, task: Task, part: str) -> Predict:
        """As the member does, and records it."""
        examples = self.parts[part]
        count = int(examples.offsets[-1]) if examples.per_token else len(examples)
        outputs = torch.zeros(count, task.objective.outputs or 0)
        self.outputs[part].append(outputs)
        return Recording(task.predict, outputs)

    def add_member(self, task: Task) -> None:
        """Keep all but its model."""
        super().add_member(task)
        self._task = replace(task, model=nn.Module())

    def combined(self) -> Task:
        """A task without a model: its outputs are known."""
        assert self._task is not None
        return self._task

    def predict_combined(self, part: str) -> Predict:
        """By the rule, from the members' outputs."""
        task = self.combined()
        multi_label = task.objective.problem_type == "multi_label_classification"
        outputs = self.rule(torch.stack(self.outputs[part]), multi_label).float()
        return Replayed(outputs, task.pad_id)

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


class WeightAverage(Combiner):
    """The mean of the weights, a model soup (Wortsman et al. 2022): summed in float64, one model in size."""

    def __init__(self, load: Callable[[], Task], parts: Parts) -> None:
        super().__init__(load, parts)
        self._sums: dict[str, Tensor] = {}

    def add_member(self, task: Task) -> None:
        """Add its weights."""
        super().add_member(task)
        for name, tensor in task.model.state_dict().items():
            value = tensor.detach().double().cpu()
            self._sums[name] = self._sums[name].add_(value) if name in self._sums else value.clone()

    @cached_property
    def _averaged(self) -> Task:
        """On the device of the members. Counters, which are whole numbers, are rounded down."""
        task = self.load()
        means = {
            name: (self._sums[name] / self.members).to(tensor.dtype)
            for name, tensor in task.model.state_dict().items()
        }
        task.model.load_state_dict(means)
        return task

    def combined(self) -> Task:
        """The averaged model."""
        return self._averaged

    def predict_combined(self, part: str) -> Predict:
        """As the averaged model does."""
        del part
        return self._averaged.predict

    def write(self, folder: Path, members: list[Member], tokenizer: Any) -> tuple[str, list[str] | None]:
        """The averaged model as training would have written it."""
        self._averaged.model.save_pretrained(str(folder))
        reset_tokenizer(tokenizer)
        tokenizer.save_pretrained(str(folder))
        return "custom-head" if members[0].head else "safetensors", None


@dataclass(frozen=True)
class Recording:
    """Predicts as a model does, and keeps its outputs (rows or tokens, outputs)."""

    predict: Predict
    outputs: Tensor

    def __call__(self, examples: Examples, batch: Indices) -> tuple[Tensor, Tensor]:
        """Outputs and targets of some examples."""
        logits, targets = self.predict(examples, batch)
        where, mask = _places(examples, batch)
        self.outputs[where] = (logits if mask is None else logits[mask.to(logits.device)]).cpu()
        return logits, targets


@dataclass(frozen=True)
class Replayed:
    """Predicts outputs that are known (rows or tokens, outputs), in the form that a model gives them."""

    outputs: Tensor
    pad_id: int

    def __call__(self, examples: Examples, batch: Indices) -> tuple[Tensor, Tensor]:
        """Outputs and targets of some examples."""
        _, targets = collate(examples, batch, self.pad_id)
        where, mask = _places(examples, batch)
        if mask is None:
            return self.outputs[where], targets
        logits = torch.zeros(*mask.shape, self.outputs.shape[-1])
        logits[mask] = self.outputs[where]
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


COMBINERS: dict[CombineRule, Callable[[Callable[[], Task], Parts], Combiner]] = {
    CombineRule.AVERAGE_PROBABILITIES: partial(OutputEnsemble, RULES["AverageProbabilities"]),
    CombineRule.VOTE: partial(OutputEnsemble, RULES["Vote"]),
    CombineRule.AVERAGE_PREDICTIONS: partial(OutputEnsemble, RULES["AveragePredictions"]),
    CombineRule.AVERAGE_WEIGHTS: WeightAverage,
}
