"""How models become one: by their outputs, or by their weights. A new way is a class here and a line in COMBINERS."""

import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune_api.combine import CombineRule
from finetune_api.status import ModelStatus
from finetune_trainer.combine.comparison import Decisive, not_finite
from finetune_trainer.combine.members import Member
from finetune_trainer.combine.weights import WeightSum
from finetune_trainer.data.batching import Indices
from finetune_trainer.data.collation import collate, places
from finetune_trainer.data.tokens import Examples
from finetune_trainer.models.precision import cast, dtype_name, published_part, round_weights
from finetune_trainer.models.tokenizer import reset_tokenizer
from finetune_trainer.publishing.folder import CARD, RECORD, SUMS
from finetune_trainer.shipped import custom_head, ensemble
from finetune_trainer.shipped.ensemble import MEMBERS, RULES
from finetune_trainer.training.evaluator import Predict
from finetune_trainer.training.task import Task

logger = logging.getLogger(__name__)

STUDENT_RECORD = "student.json"
"""The run.json of a student's training."""
Parts = dict[str, Examples]
"""The rows to score on, by the prefix of their metrics."""
Rule = Callable[[Tensor, bool], Tensor]
"""Of `ensemble.RULES`."""


@dataclass(frozen=True)
class Means:
    """What combiners work with."""

    members: list[Member]
    student: Member | None
    """What was trained on the members' outputs, where something was."""
    load: Callable[[Member], Task]
    """A task with a model."""
    parts: Parts
    decisive: Decisive
    measure: Callable[[Task], float | None]
    """The value of the decisive metric; None if it is not finite."""
    estimate: Callable[[Task], None]
    """Estimates statistics of batch normalisation anew, where a model has some."""
    dtype: torch.dtype
    """Of the weights of a soup: that of all members, else float32."""


class Combiner(ABC):
    """Takes up every member, and is then scored as one model."""

    def __init__(self, means: Means) -> None:
        self.means = means
        self.used: list[int] = []
        """Members in the combination."""

    def predict_member(self, task: Task, part: str) -> Predict:
        """How a member predicts a part of the rows."""
        del part
        return task.predict

    def add_member(self, task: Task) -> None:
        """Take up a member that was scored."""
        del task
        self.used.append(len(self.used))

    def _model(self, form: str) -> ModelStatus:
        """What is known of a combination in one format."""
        return ModelStatus(uri="", format=form, base_model=self.means.members[0].model.base_model)

    @abstractmethod
    def combine(self, values: list[float | None]) -> Task:
        """The combination, once all members were added; `values` are those of the decisive metric."""

    @abstractmethod
    def predict_combined(self, part: str) -> Predict:
        """How the combination predicts a part of the rows."""

    @abstractmethod
    def write(self, folder: Path, tokenizer: Any) -> tuple[ModelStatus, list[str] | None]:
        """Write the combination into an empty folder; what it is, and where in it the members are, if they are."""


class OutputEnsemble(Combiner):
    """Keeps the outputs of every member for every row, or token: members x rows x outputs numbers in float32."""

    def __init__(self, rule: Rule, means: Means) -> None:
        super().__init__(means)
        self.rule, self.outputs = rule, {part: list[Tensor]() for part in means.parts}
        self._task: Task | None = None

    def predict_member(self, task: Task, part: str) -> Predict:
        """As the member does, and records it."""
        examples = self.means.parts[part]
        count = int(examples.offsets[-1]) if examples.per_token else len(examples)
        outputs = torch.zeros(count, task.objective.outputs or 0)
        self.outputs[part].append(outputs)
        return Recording(task.predict, outputs)

    def add_member(self, task: Task) -> None:
        """Keep all but its model."""
        super().add_member(task)
        self._task = replace(task, model=nn.Module())

    def combine(self, values: list[float | None]) -> Task:
        """A task without a model: its outputs are known."""
        del values
        assert self._task is not None
        return self._task

    def predict_combined(self, part: str) -> Predict:
        """By the rule, from the members' outputs."""
        assert self._task is not None
        task = self._task
        multi_label = task.objective.problem_type == "multi_label_classification"
        outputs = self.rule(torch.stack(self.outputs[part]), multi_label).float()
        return Replayed(outputs, task.pad_id)

    def write(self, folder: Path, tokenizer: Any) -> tuple[ModelStatus, list[str] | None]:
        """The members as they are, and the files that load them."""
        del tokenizer  # every member has it
        members = self.means.members
        folders = [f"{MEMBERS}/{number}" for number in range(len(members))]
        for member, place in zip(members, folders, strict=True):
            shutil.copytree(member.folder.path, folder / place)
        loaders = [ensemble, *([custom_head] if any(member.head for member in members) else [])]
        for loader in loaders:
            source = Path(str(loader.__file__))
            (folder / source.name).write_bytes(source.read_bytes())
        return self._model("ensemble"), folders


class WeightAverage(Combiner):
    """A model soup: one model with the mean of the members' weights."""

    def __init__(self, means: Means) -> None:
        super().__init__(means)
        self.sum = WeightSum()
        self._soup: Task | None = None

    def add_member(self, task: Task) -> None:
        """Add its weights."""
        super().add_member(task)
        self.sum.add(task.model)

    def combine(self, values: list[float | None]) -> Task:
        """The averaged model on the device of the members, with the values that are published."""
        del values
        soup = self.means.load(self.means.members[self.used[0]])
        self.sum.put_mean(soup.model)
        if len(self.used) > 1:
            self.means.estimate(soup)
        round_weights(soup.model, self.means.dtype)
        self._soup = soup
        return soup

    def predict_combined(self, part: str) -> Predict:
        """As the averaged model does."""
        del part
        assert self._soup is not None
        return self._soup.predict

    def write(self, folder: Path, tokenizer: Any) -> tuple[ModelStatus, list[str] | None]:
        """The averaged model as training would have written it."""
        assert self._soup is not None
        cast(published_part(self._soup.model), self.means.dtype)
        self._soup.model.save_pretrained(str(folder))
        reset_tokenizer(tokenizer)
        tokenizer.save_pretrained(str(folder))
        model = self._model("custom-head" if self.means.members[0].head else "safetensors")
        return model.model_copy(update={"dtype": dtype_name(self.means.dtype)}), None


class GreedySoup(WeightAverage):
    """Algorithm 1 of Wortsman et al. 2022: from the best member on, one is added unless it makes the soup worse.

    One model and the sum of those kept are in memory; a member that is kept is read once more.
    """

    def add_member(self, task: Task) -> None:
        """Members are chosen by their values, once all are known."""

    def combine(self, values: list[float | None]) -> Task:
        """The mean of the members that were kept."""
        decisive, order = self.means.decisive, self.means.decisive.best(values)
        if not order:
            raise not_finite(decisive)
        value = values[order[0]]
        self._keep(order[0])
        logger.info(f"members.{order[0]} is the best: {decisive.name} {value:.4f}")
        for number in order[1:]:
            candidate = self._value_with(number)
            worse = candidate is None or decisive.improves(value, candidate)
            logger.info(
                f"members.{number} {'is skipped' if worse else 'is kept'}: {decisive.name}"
                f" {'not finite' if candidate is None else f'{candidate:.4f}'} with it, {value:.4f} without"
            )
            if not worse:
                self._keep(number)
                value = candidate
        return super().combine(values)

    def _keep(self, number: int) -> None:
        self.used.append(number)
        self.sum.add(self.means.load(self.means.members[number]).model)

    def _value_with(self, number: int) -> float | None:
        """Of the soup with one more member, which stays out of the sum."""
        task = self.means.load(self.means.members[number])
        self.sum.put_mean_with(task.model)
        self.means.estimate(task)
        return self.means.measure(task)


class Student(Combiner):
    """One model that was trained on the mean of the members' outputs (Hinton et al. 2015)."""

    _task: Task | None = None

    def combine(self, values: list[float | None]) -> Task:
        """The student on the device of the members."""
        del values
        assert self.means.student is not None
        self._task = self.means.load(self.means.student)
        return self._task

    def predict_combined(self, part: str) -> Predict:
        """As the student does."""
        del part
        assert self._task is not None
        return self._task.predict

    def write(self, folder: Path, tokenizer: Any) -> tuple[ModelStatus, list[str] | None]:
        """The student as its training published it."""
        del tokenizer  # it lies in its folder
        assert self.means.student is not None
        copy_model(self.means.student, folder)
        source = self.means.student.folder.path
        (folder / STUDENT_RECORD).write_bytes((source / RECORD).read_bytes())
        return self.means.student.model, None


def copy_model(member: Member, folder: Path) -> None:
    """A member's files, without its card and its records."""
    source = member.folder.path

    def own(at: str, names: list[str]) -> set[str]:
        return {CARD, RECORD, SUMS} & set(names) if Path(at) == source else set()

    shutil.copytree(source, folder, ignore=own, dirs_exist_ok=True)


@dataclass(frozen=True)
class Recording:
    """Predicts as a model does, and keeps its outputs (rows or tokens, outputs)."""

    predict: Predict
    outputs: Tensor

    def __call__(self, examples: Examples, batch: Indices) -> tuple[Tensor, Tensor]:
        """Outputs and targets of some examples."""
        logits, targets = self.predict(examples, batch)
        where, mask = places(examples, batch)
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
        where, mask = places(examples, batch)
        if mask is None:
            return self.outputs[where], targets
        logits = torch.zeros(*mask.shape, self.outputs.shape[-1])
        logits[mask] = self.outputs[where]
        return logits, targets


COMBINERS: dict[CombineRule, Callable[[Means], Combiner]] = {
    CombineRule.AVERAGE_PROBABILITIES: partial(OutputEnsemble, RULES["AverageProbabilities"]),
    CombineRule.VOTE: partial(OutputEnsemble, RULES["Vote"]),
    CombineRule.AVERAGE_PREDICTIONS: partial(OutputEnsemble, RULES["AveragePredictions"]),
    CombineRule.AVERAGE_WEIGHTS: WeightAverage,
    CombineRule.GREEDY_SOUP: GreedySoup,
    CombineRule.DISTIL: Student,
}
