"""Scores every member and the combination on the same rows, one model in memory at a time."""

import logging
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from finetune_api.combine import CombineConfig, CombineRule
from finetune_api.metrics import Direction, direction, plain
from finetune_api.run import ModelInput
from finetune_api.status import Metrics, ProgressStatus
from finetune_api.training import TrainingSpec
from finetune_trainer.combine.combiners import COMBINERS, Combiner, Parts
from finetune_trainer.combine.members import Member
from finetune_trainer.models.load import load_model
from finetune_trainer.models.precision import fitting
from finetune_trainer.process.memory import memory_errors
from finetune_trainer.reporting.recorder import Recorder, short
from finetune_trainer.shipped.custom_head import load as load_headed
from finetune_trainer.training.evaluate import EVALUATION_FACTOR, Judge, defined

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """What was found; metrics by their names with eval_ and test_."""

    combiner: Combiner
    members: list[Metrics]
    metrics: Metrics
    """Of the combination, each beside those of the mean and of the best member."""


def score(
    config: CombineConfig, members: list[Member], parts: Parts, panel: Judge, recorder: Recorder
) -> Scored:
    """Score one member after the other, then all as one. Raises StoppedError, PrunedError."""
    combiner = COMBINERS[config.combine](lambda: load(members[0], panel), parts, panel)
    each: list[Metrics] = []
    for number, member in enumerate(members):
        model = load(member, panel)
        judges = {part: combiner.judge(model, part) for part in parts}
        each.append(_measured(config, judges, parts, _names(config, of_members=True)))
        combiner.took(model)
        del model, judges  # before the next one is loaded
        logger.info(f"{member.name}: {told(each[-1])}")
        recorder.update(progress=ProgressStatus(percent=100 * (number + 1) // (len(members) + 1)))
    judges = {part: combiner.joint(part) for part in parts}
    joint = _measured(config, judges, parts, _names(config))
    return Scored(combiner, each, beside_members(joint, each))


def in_fitting_precision(config: CombineConfig, members: list[Member], panel: Judge) -> Judge:
    """The judge, in a number format that a member of every architecture can be computed in."""
    different = {member.config.get("model_type"): member for member in members}.values()
    loaders = [partial(load, member, panel) for member in different]
    return replace(panel, compute=fitting(loaders, panel.compute, config.precision, "precision"))


def load(member: Member, panel: Judge) -> Any:
    """A member's model on the device of the run."""
    folder = str(member.folder.path)
    if member.head is not None:
        model: Any = load_headed(folder)[0]
    else:
        model = load_model(member.folder, ModelInput(path=folder), panel.objective, panel.pad_id)
    panel.objective.prepare(model)
    with memory_errors(model):
        return model.to(panel.compute.device)


def beside_members(joint: Metrics, members: list[Metrics]) -> Metrics:
    """The combination's metrics, each followed by `_mean_member` and `_best_member`, the best by that very metric."""
    found: Metrics = {}
    for name, value in joint.items():
        values = [member[name] for member in members if name in member]
        found[name] = value
        if values:
            best = max if direction(name.partition("_")[2]) is Direction.MAXIMIZE else min
            found[f"{name}_mean_member"] = float(f"{fmean(values):.6g}")
            found[f"{name}_best_member"] = best(values)
    return found


def told(metrics: Metrics) -> str:
    """As a part of a sentence."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def _measured(config: CombineConfig, judges: dict[str, Judge], parts: Parts, names: list[str]) -> Metrics:
    length, kind = config.dataset.preprocessing.max_length, config.objective.kind
    size = EVALUATION_FACTOR * (TrainingSpec().resolved(kind, length).micro_batch_size or 1)
    found: Metrics = {}
    for part, judge in judges.items():
        scores = judge.evaluate(parts[part], size)
        if scores is None:
            raise judge.stop.error("; nothing was published")
        numbers, undefined = defined(scores, names)
        if undefined:
            logger.warning(f"not defined on these rows: {', '.join(undefined)}")
        found |= {f"{part}_{name}": short(value) or 0.0 for name, value in numbers.items()}
    return found


def _names(config: CombineConfig, *, of_members: bool = False) -> list[str]:
    """Loss and metrics; votes are no probabilities, so they have no loss."""
    loss = [] if config.combine is CombineRule.VOTE and not of_members else ["loss"]
    return list(dict.fromkeys([*loss, *(plain(name) for name in config.metrics or [])]))
