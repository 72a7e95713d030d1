"""Was it worth it: the baseline, and what training gained over it.

The baseline is measured before the first step and kept beside the checkpoints: a resumed run has no untrained model any
more. It is compared row by row with the model that is published (paired bootstrap)."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch

from finetune_api.gate import GateSpec
from finetune_api.metrics import plain
from finetune_api.status import BaselineKind, BaselineStatus, ImprovementStatus
from finetune_trainer.data.batching import Indices
from finetune_trainer.data.tokens import Examples
from finetune_trainer.files import sync
from finetune_trainer.reporting.recorder import short
from finetune_trainer.training.answers import Keeping, RowAnswers, gather
from finetune_trainer.training.bootstrap import gain_interval
from finetune_trainer.training.constant import constant_of
from finetune_trainer.training.context import Run
from finetune_trainer.training.evaluate import score_apart
from finetune_trainer.training.evaluator import Predict
from finetune_trainer.training.inputs import BASELINE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Baseline:
    """What the metrics of a model are compared with: its answer for every validation row."""

    status: BaselineStatus
    answers: RowAnswers


def measure_baseline(run: Run, folder: Path, fingerprint: str, *, new_head: bool) -> Baseline:
    """The baseline of a run, whose model nothing has trained yet; measured once, kept in `folder`.

    Raises StoppedError.
    """
    path = folder / BASELINE
    found = run.ranks.broadcast(_read(path, fingerprint) if run.ranks.is_main else None)
    if found is None:
        kind = BaselineKind.CONSTANT_PREDICTION if new_head else BaselineKind.UNTRAINED_MODEL
        scores, answers = _constant_answers(run) if new_head else _answers(run, run.task.predict)
        metrics = {
            f"eval_{name}": value for name in _names(run) if (value := short(scores[name])) is not None
        }
        found = Baseline(BaselineStatus(kind=kind, metrics=metrics), answers)
        if run.ranks.is_main:
            _write(path, found, fingerprint)
    run.recorder.update(baseline=found.status)
    measured = ", ".join(f"{name} {value:.4f}" for name, value in found.status.metrics.items())
    logger.info(f"baseline ({found.status.kind.value}): {measured}")
    return found


def compare(run: Run, baseline: Baseline, gate: GateSpec | None) -> ImprovementStatus | None:
    """What training gained, on the same rows; `run` has the model that is published. None where either is undefined."""
    metric = plain(gate.metric if gate else run.training.evaluation.best_metric)
    scores, answers = _answers(run, run.task.predict)
    before, after = baseline.status.metrics.get(f"eval_{metric}"), short(scores[metric])
    if before is None or after is None:
        where = "of the baseline" if before is None else "of the trained model"
        run.recorder.caveat(f"eval_{metric} {where} is not defined, so what training gained is not known")
        return None
    interval = gain_interval(metric, 1, run.task.objective.meter, answers, baseline.answers)
    improvement = ImprovementStatus(
        metric=f"eval_{metric}", from_=before, to=after, delta=short(after - before) or 0.0, ci95=interval
    )
    run.recorder.update(improvement=improvement)
    return improvement


def _names(run: Run) -> list[str]:
    spec = run.training.evaluation
    return list(dict.fromkeys(plain(name) for name in ["loss", spec.best_metric, *(spec.metrics or [])]))


def _answers(run: Run, predict: Predict) -> tuple[dict[str, float], RowAnswers]:
    """Scores of the validation rows, and the answers that they are computed from. Raises StoppedError."""
    rows = replace(run.validation, packed_to=None)  # answers are kept by row
    keeping = Keeping(predict, run.task.objective, len(rows))
    scores = score_apart(run, rows, "the validation rows were evaluated", keeping)
    return scores, gather(keeping.kept, run.ranks)


def _constant_answers(run: Run) -> tuple[dict[str, float], RowAnswers]:
    """As `_answers` of a model that predicts the same for every row: the likeliest, and for the loss the cheapest."""
    constant = constant_of(run.task.objective, run.train.targets)
    scores, answers = _answers(run, _predicting(run, constant.likely))
    if np.array_equal(constant.likely, constant.cheapest):
        return scores, answers
    cheapest, with_losses = _answers(run, _predicting(run, constant.cheapest))
    return scores | {"loss": cheapest["loss"]}, replace(answers, losses=with_losses.losses)


def _predicting(run: Run, constant: npt.NDArray[np.float32]) -> Predict:
    outputs = torch.from_numpy(constant)

    def predict(examples: Examples, batch: Indices) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = run.task.collate(examples, batch)
        shape = inputs["input_ids"].shape if examples.per_token else (len(targets),)
        return outputs.to(targets.device).expand(*shape, -1), targets

    return predict


def _write(path: Path, baseline: Baseline, fingerprint: str) -> None:
    """At once: a reader sees all or nothing."""
    answers, temporary = baseline.answers, path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez(
            file,
            values=np.concatenate(answers.entries),
            lengths=np.asarray([len(each) for each in answers.entries]),
            losses=answers.losses,
            status=np.asarray(baseline.status.model_dump_json()),
            fingerprint=np.asarray(fingerprint),
        )
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def _read(path: Path, fingerprint: str) -> Baseline | None:
    """What an earlier attempt of this run measured; None if there is nothing, or of another configuration."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["fingerprint"]) != fingerprint:
                return None
            entries = np.split(kept["values"], np.cumsum(kept["lengths"])[:-1])
            status = BaselineStatus.model_validate_json(str(kept["status"]))
            return Baseline(status, RowAnswers(entries, kept["losses"]))
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        logger.warning(f"{path} is damaged ({error}): the baseline is measured again")
        return None
