"""Scores every member and the combination on the same rows, one model in memory at a time."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, nan
from statistics import fmean
from typing import Any

import torch

from finetune_api.combine import CombineConfig, CombineRule
from finetune_api.metrics import Direction, direction, plain
from finetune_api.model import Dtype
from finetune_api.run import FaultPlace, ModelInput
from finetune_api.status import CombinationStatus, Metrics, ProgressStatus, Published
from finetune_api.training import TrainingSpec
from finetune_trainer.combine.batch_norm import estimate_statistics
from finetune_trainer.combine.combiners import COMBINERS, Combiner, Means, Parts
from finetune_trainer.combine.comparison import Decisive, compare
from finetune_trainer.combine.members import Member, named
from finetune_trainer.combine.rows import NOTHING_PUBLISHED
from finetune_trainer.data.tokens import Examples
from finetune_trainer.distributed import Ranks
from finetune_trainer.errors import NotFoundError
from finetune_trainer.models.load import load_model
from finetune_trainer.models.precision import published_dtype
from finetune_trainer.objectives import Objective
from finetune_trainer.process.devices import Compute
from finetune_trainer.process.memory import memory_errors
from finetune_trainer.process.stop import Stop
from finetune_trainer.reporting.recorder import Recorder, short
from finetune_trainer.shipped.custom_head import load as load_headed
from finetune_trainer.training.answers import Keeping, RowAnswers
from finetune_trainer.training.bootstrap import gain_interval
from finetune_trainer.training.evaluator import EVALUATION_FACTOR, Evaluator, Predict, defined
from finetune_trainer.training.inputs import stop_if_asked
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
    best: int | None
    """The best member; None if no member has a finite value."""
    comparison: CombinationStatus

    @property
    def published_metrics(self) -> Metrics:
        """Of the model that is published."""
        if self.comparison.published is Published.COMBINATION:
            return self.metrics
        assert self.best is not None
        return self.members[self.best]


def score(
    setting: Setting,
    members: list[Member],
    student: Member | None,
    parts: Parts,
    train: Examples | None,
    recorder: Recorder,
) -> Scored:
    """Score one member after the other, then all as one, or the student.

    `train` are the training rows, for batch normalisation. Raises StoppedError, PrunedError, DivergedError.
    """
    decisive = Decisive.of(setting.config)
    means = Means(
        members,
        student,
        lambda member: load(member, setting),
        parts,
        decisive,
        lambda task: _decided(setting, task, parts[decisive.part], decisive),
        lambda task: _estimate(setting, task, train),
        dtype_of_all(members),
    )
    combiner = COMBINERS[setting.config.combine](means)
    each, best = list[Metrics](), None
    for number, member in enumerate(members):
        answers = _score_member(setting, members[number], combiner, decisive)
        each.append(answers.metrics)
        logger.info(f"{member.name}: {format_metrics(each[-1])}")
        value = each[-1].get(decisive.name)
        if value is None:
            recorder.caveat(f"{member.field}: {member.name}: its {decisive.name} is not a finite number")
        if best is None or decisive.improves(value, best.metrics.get(decisive.name)):
            best = answers
        if student is None:  # whose training is what the progress shows
            recorder.update(progress=ProgressStatus(percent=100 * (number + 1) // (len(members) + 1)))
    values = [metrics.get(decisive.name) for metrics in each]
    task = combiner.combine(values)
    together = _measured(setting, task, parts, combiner.predict_combined, decisive)
    interval = _interval(setting, task.objective, decisive, together, best)
    combined = together.metrics.get(decisive.name)
    found = compare(setting.config, decisive, values, combined, len(combiner.used), interval)
    metrics = beside_members(without_votes_loss(together.metrics, setting.config), each, setting.config)
    return Scored(combiner, each, metrics, next(iter(decisive.best(values)), None), found)


def dtype_of_all(members: list[Member]) -> torch.dtype:
    """The number format of the weights of all members; float32 where they differ."""
    found = {published_dtype(Dtype.AUTO, member.folder.path) for member in members}
    return found.pop() if len(found) == 1 else torch.float32


@dataclass(frozen=True)
class Answers:
    """What a model answered: its metrics, and the answers for the rows of the decisive metric."""

    metrics: Metrics
    rows: RowAnswers


def _score_member(setting: Setting, member: Member, combiner: Combiner, decisive: Decisive) -> Answers:
    """Nothing refers to the member's model afterwards: the next one takes its place in memory."""
    task, parts = load(member, setting), combiner.means.parts
    answers = _measured(setting, task, parts, lambda part: combiner.predict_member(task, part), decisive)
    combiner.add_member(task)
    return answers


def _interval(
    setting: Setting, objective: Objective[Any], decisive: Decisive, together: Answers, best: Answers | None
) -> list[float] | None:
    if best is None or decisive.name not in together.metrics or decisive.name not in best.metrics:
        return None
    return gain_interval(
        decisive.metric,
        decisive.sign,
        objective.meter,
        together.rows,
        best.rows,
        lambda: stop_if_asked(setting.stop, NOTHING_PUBLISHED),
    )


def _estimate(setting: Setting, task: Task, train: Examples | None) -> None:
    if train is not None:
        size = setting.batch_size // EVALUATION_FACTOR
        estimate_statistics(task, train, size, lambda: stop_if_asked(setting.stop, NOTHING_PUBLISHED))


def load(member: Member, setting: Setting) -> Task:
    """A member's model on the device of the run."""
    folder, objective = str(member.folder.path), setting.objective
    if member.head is not None:
        model: Any = load_headed(folder)[0]
    else:
        with named(member.field, member.name):
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


def without_votes_loss(metrics: Metrics, config: CombineConfig) -> Metrics:
    """Votes are no probabilities, so they have no loss."""
    voted = config.combine is CombineRule.VOTE
    return {name: value for name, value in metrics.items() if not (voted and plain_name(name) == "loss")}


def plain_name(name: str) -> str:
    """Without the prefix of its rows."""
    return name.partition("_")[2]


def beside_members(combined: Metrics, members: list[Metrics], config: CombineConfig) -> Metrics:
    """The combination's metrics, each followed by `_mean_member` and `_best_member`, the best by that very metric.

    Not that of bestMetric where config.metrics does not ask for it: the report has it beside its members elsewhere.
    """
    found: Metrics = {}
    asked = _names(config, "test", Decisive.of(config))
    for name, value in combined.items():
        values = [member[name] for member in members if name in member]
        metric = plain_name(name)
        found[name] = value
        if values and metric in asked:
            best = max if direction(metric) is Direction.MAXIMIZE else min
            found[f"{name}_mean_member"] = float(f"{fmean(values):.6g}")
            found[f"{name}_best_member"] = best(values)
    return found


def format_metrics(metrics: Metrics) -> str:
    """As a part of a sentence."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def _measured(
    setting: Setting, task: Task, parts: Parts, predict: Callable[[str], Predict], decisive: Decisive
) -> Answers:
    found = Metrics()
    keeping = Keeping(predict(decisive.part), task.objective, len(parts[decisive.part]))
    for part, examples in parts.items():
        chosen = keeping if part == decisive.part else predict(part)
        scores = _scores(setting, task, examples, chosen)
        numbers, undefined = defined(_of_finite(scores), _names(setting.config, part, decisive))
        if undefined:
            logger.warning(f"not defined on these rows: {', '.join(undefined)}")
        found |= {f"{part}_{name}": short(value) or 0.0 for name, value in numbers.items()}
    return Answers(found, keeping.kept)


def _decided(setting: Setting, task: Task, examples: Examples, decisive: Decisive) -> float | None:
    return short(_of_finite(_scores(setting, task, examples, task.predict))[decisive.metric])


def _of_finite(scores: dict[str, float]) -> dict[str, float]:
    """None is defined where outputs are not finite, which makes the loss so; accuracy would count them as wrong."""
    return scores if isfinite(scores["loss"]) else dict.fromkeys(scores, nan)


def _scores(setting: Setting, task: Task, examples: Examples, predict: Predict) -> dict[str, float]:
    scores = Evaluator(task, Ranks(), setting.stop).evaluate(examples, setting.batch_size, predict)
    if scores is None:
        raise setting.stop.to_error(NOTHING_PUBLISHED)
    return scores


def _names(config: CombineConfig, part: str, decisive: Decisive) -> list[str]:
    """Loss and metrics; on the rows that decide, bestMetric too."""
    deciding = [decisive.metric] if part == decisive.part else []
    return list(dict.fromkeys(["loss", *(plain(name) for name in config.metrics or []), *deciding]))
