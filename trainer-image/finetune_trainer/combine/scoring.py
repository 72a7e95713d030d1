"""Scores every member and the combination on the same rows, one model in memory at a time."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from finetune_api.combine import CombineConfig, CombineRule
from finetune_api.metrics import Direction, direction, plain
from finetune_api.run import FaultPlace, ModelInput
from finetune_api.status import Metrics, ProgressStatus
from finetune_api.training import TrainingSpec
from finetune_trainer.combine.combiners import COMBINERS, Combiner, Parts
from finetune_trainer.combine.members import Member
from finetune_trainer.combine.rows import NOTHING_PUBLISHED
from finetune_trainer.distributed import Ranks
from finetune_trainer.errors import NotFoundError
from finetune_trainer.models.load import load_model
from finetune_trainer.objectives import Objective
from finetune_trainer.process.devices import Compute
from finetune_trainer.process.memory import memory_errors
from finetune_trainer.process.stop import Stop
from finetune_trainer.reporting.recorder import Recorder, short
from finetune_trainer.shipped.custom_head import load as load_headed
from finetune_trainer.training.evaluator import EVALUATION_FACTOR, Evaluator, Predict, defined
from finetune_trainer.training.task import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """What members and combination are scored in alike."""

    config: CombineConfig
    objective: Objective[Any]
    compute: Compute
    pad_id: int
    stop: Stop

    @property
    def batch_size(self) -> int:
        """Rows of a batch."""
        length, kind = self.config.dataset.preprocessing.max_length, self.config.objective.kind
        return EVALUATION_FACTOR * (TrainingSpec().resolved(kind, length).micro_batch_size or 1)


@dataclass(frozen=True)
class Scored:
    """What was found; metrics by their names with eval_ and test_."""

    combiner: Combiner
    members: list[Metrics]
    metrics: Metrics
    """Of the combination, each beside those of the mean and of the best member."""


def score(setting: Setting, members: list[Member], parts: Parts, recorder: Recorder) -> Scored:
    """Score one member after the other, then all as one. Raises StoppedError, PrunedError."""
    combiner = COMBINERS[setting.config.combine](lambda: load(members[0], setting), parts)
    each: list[Metrics] = []
    for number, member in enumerate(members):
        each.append(_score_member(setting, member, combiner))
        logger.info(f"{member.name}: {format_metrics(each[-1])}")
        recorder.update(progress=ProgressStatus(percent=100 * (number + 1) // (len(members) + 1)))
    names = _names(setting.config)
    combined = _measured(setting, combiner.combined(), parts, combiner.predict_combined, names)
    return Scored(combiner, each, beside_members(combined, each))


def _score_member(setting: Setting, member: Member, combiner: Combiner) -> Metrics:
    """Nothing refers to the member's model afterwards: the next one takes its place in memory."""
    task = load(member, setting)
    names = _names(setting.config, of_members=True)
    metrics = _measured(
        setting, task, combiner.parts, lambda part: combiner.predict_member(task, part), names
    )
    combiner.add_member(task)
    return metrics


def load(member: Member, setting: Setting) -> Task:
    """A member's model on the device of the run."""
    folder, objective = str(member.folder.path), setting.objective
    if member.head is not None:
        model: Any = load_headed(folder)[0]
    else:
        loaded = load_model(member.folder, ModelInput(path=folder), objective, setting.pad_id)
        if loaded.head.order is None:
            raise NotFoundError(
                f"{member.field}: {member.name}: its head cannot be used ({loaded.head.reason}); train it again",
                FaultPlace(field=member.field, file=member.name),
            )
        model = loaded.model
    objective.prepare(model)
    with memory_errors(model):
        return Task(model.to(setting.compute.device), objective, setting.compute, setting.pad_id)


def beside_members(combined: Metrics, members: list[Metrics]) -> Metrics:
    """The combination's metrics, each followed by `_mean_member` and `_best_member`, the best by that very metric."""
    found: Metrics = {}
    for name, value in combined.items():
        values = [member[name] for member in members if name in member]
        found[name] = value
        if values:
            best = max if direction(name.partition("_")[2]) is Direction.MAXIMIZE else min
            found[f"{name}_mean_member"] = float(f"{fmean(values):.6g}")
            found[f"{name}_best_member"] = best(values)
    return found


def format_metrics(metrics: Metrics) -> str:
    """As a part of a sentence."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def _measured(
    setting: Setting, task: Task, parts: Parts, predict: Callable[[str], Predict], names: list[str]
) -> Metrics:
    evaluator, found = Evaluator(task, Ranks(), setting.stop), Metrics()
    for part, examples in parts.items():
        scores = evaluator.evaluate(examples, setting.batch_size, predict(part))
        if scores is None:
            raise setting.stop.to_error(NOTHING_PUBLISHED)
        numbers, undefined = defined(scores, names)
        if undefined:
            logger.warning(f"not defined on these rows: {', '.join(undefined)}")
        found |= {f"{part}_{name}": short(value) or 0.0 for name, value in numbers.items()}
    return found


def _names(config: CombineConfig, *, of_members: bool = False) -> list[str]:
    """Loss and metrics; votes are no probabilities, so they have no loss."""
    loss = [] if config.combine is CombineRule.VOTE and not of_members else ["loss"]
    return list(dict.fromkeys([*loss, *(plain(name) for name in config.metrics or [])]))
