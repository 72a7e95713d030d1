"""What the trainer's log says of its progress, as the report that a pod posts. Pure."""

import json
from dataclasses import dataclass, field
from typing import Any

from finetune_api.metrics import improves, plain
from finetune_api.run import RunReport
from finetune_api.status import CheckpointStatus, EpochStatus, ProgressStatus
from finetune_core import lenient


@dataclass
class LogReader:
    """Grows line by line to the report of an attempt."""

    attempt: int
    best_metric: str
    report: RunReport = field(init=False)

    def __post_init__(self) -> None:
        self.report = RunReport(attempt=self.attempt)

    def read(self, line: str) -> dict[str, Any] | None:
        """The record of a line; None for one that is not the trainer's."""
        try:
            record = json.loads(line)
        except ValueError:
            return None
        if not isinstance(record, dict) or "message" not in record:
            return None
        event = record.get("event")
        if event == "train":
            self._update(progress=_known(ProgressStatus, record))
        elif event == "evaluation":
            self._evaluated(_known(EpochStatus, record))
        return record

    def _evaluated(self, epoch: EpochStatus) -> None:
        earlier = [one for one in self.report.epochs if one.step < epoch.step]
        self._update(epochs=[*earlier, epoch])
        metric, best = plain(self.best_metric), self.report.best
        value = epoch.eval_loss if metric == "loss" else epoch.metrics.get(metric)
        if value is not None and improves(metric, value, best.value if best else None):
            self._update(best=CheckpointStatus(step=epoch.step, metric=self.best_metric, value=value))

    def _update(self, **parts: Any) -> None:
        self.report = self.report.model_copy(update=parts)


def _known(kind: Any, record: dict[str, Any]) -> Any:
    names = {info.alias or name for name, info in kind.model_fields.items()}
    return lenient.read(kind, {name: value for name, value in record.items() if name in names})[0]
