"""What a model answered for every row, reduced as its meter does, so that any resample of the rows can be scored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finetune_trainer.data.batching import Indices
from finetune_trainer.data.tokens import Examples
from finetune_trainer.distributed import Ranks
from finetune_trainer.objectives import Objective
from finetune_trainer.objectives.base import Meter
from finetune_trainer.training.evaluator import Predict

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowAnswers:
    """What one model answered for every row: enough for any metric of any resample of the rows."""

    entries: list[npt.NDArray[Any]]
    """`Answers.values` of each row."""
    losses: npt.NDArray[np.float64]
    """(rows, 2): sum and weight of each row's loss."""

    def value(self, metric: str, new_meter: Callable[[], Meter]) -> Callable[[Ints], float]:
        """The metric as a function of how often each row counts (rows,); NaN where it is not defined."""
        values, lengths = np.concatenate(self.entries), np.asarray([len(each) for each in self.entries])

        def of(times: Ints) -> float:
            total, weight = times @ self.losses
            loss = float(total / weight) if weight else float("nan")
            meter = new_meter()
            if metric == "loss" and not meter.has_loss:
                return loss
            meter.count(values, np.repeat(times, lengths))
            return meter.scores(loss)[metric]

        return of


def gather(kept: RowAnswers, ranks: Ranks) -> RowAnswers:
    """The answers of all ranks, each of which predicted some of the rows."""
    if ranks.world_size == 1:
        return kept
    mine = {row: (entries, kept.losses[row]) for row, entries in enumerate(kept.entries) if len(entries)}
    everyones = {row: answer for part in ranks.all_gather(mine) for row, answer in part.items()}
    nothing = np.empty(0), np.zeros(2)
    answers = [everyones.get(row, nothing) for row in range(len(kept.entries))]
    return RowAnswers([entries for entries, _ in answers], np.stack([losses for _, losses in answers]))


class Keeping:
    """Predicts as a model does, and keeps what the metrics of each row need."""

    def __init__(self, predict: Predict, objective: Objective[Any], rows: int) -> None:
        self.predict, self.objective = predict, objective
        self.meter = objective.meter()
        self.kept = RowAnswers([np.empty(0)] * rows, np.zeros((rows, 2)))

    def __call__(self, examples: Examples, batch: Indices) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and targets of some examples."""
        logits, targets = self.predict(examples, batch)
        values, lengths = self.meter.reduce(logits, targets)
        for row, entries in zip(batch.tolist(), np.split(values, np.cumsum(lengths)[:-1]), strict=True):
            self.kept.entries[row] = entries
        losses = torch.func.vmap(lambda row, target: self.objective.loss(row[None], target[None]))(
            logits, targets
        )
        self.kept.losses[batch] = torch.stack(losses, dim=1).double().cpu().numpy()
        return logits, targets
