"""What the model has forgotten: other rows, evaluated before and after training.

The values before are measured before the first step and kept beside the checkpoints, as the baseline is."""

import logging
from dataclasses import dataclass
from pathlib import Path

from finetune_api.gate import GateSpec
from finetune_api.metrics import Direction, direction, plain
from finetune_api.run import FaultPlace
from finetune_api.status import ForgettingStatus
from finetune_api.training import ForgettingSpec
from finetune_trainer.data.tokens import Examples
from finetune_trainer.errors import ConfigurationError, GateNotPassedError
from finetune_trainer.files import read_json, replace_json
from finetune_trainer.reporting.recorder import short
from finetune_trainer.training.context import Run
from finetune_trainer.training.evaluate import score_apart
from finetune_trainer.training.inputs import FORGETTING

logger = logging.getLogger(__name__)
FIELD = "training.evaluation.forgetting"


@dataclass(frozen=True)
class Before:
    """What is evaluated twice, by which metric, and the values of the untrained model."""

    sets: list[Examples]
    metric: str
    values: list[float | None]


def measure_before(
    run: Run, sets: list[Examples], gate: GateSpec | None, folder: Path, fingerprint: str, *, new_head: bool
) -> Before:
    """Evaluate the sets with the model that nothing has trained yet; measured once, kept in `folder`.

    Raises ConfigurationError for a model that cannot do the task yet, StoppedError.
    """
    if new_head:
        raise nothing_to_forget()
    metric, path = plain(gate.metric if gate else run.training.evaluation.best_metric), folder / FORGETTING
    kept = read_json(path) if run.ranks.is_main else None
    known = kept["values"] if kept and kept["fingerprint"] == fingerprint else None
    values = run.ranks.broadcast(known)
    if values is None:
        values = [_value(run, rows, metric) for rows in sets]
        if run.ranks.is_main:
            replace_json(path, {"fingerprint": fingerprint, "values": values})
    return Before(sets, metric, values)


def nothing_to_forget() -> ConfigurationError:
    """Of a model whose head is new."""
    return ConfigurationError(
        f"{FIELD}: the model's head is new, so it has nothing to forget; remove the field, or start from a model that"
        " was trained for this task",
        FaultPlace(field=FIELD),
    )


def measure_after(run: Run, before: Before, asked: list[ForgettingSpec]) -> None:
    """Evaluate the sets with the model that is published, and report both.

    Raises GateNotPassedError for one that became worse by more than `maxDrop`, or is not defined.
    """
    found, sign = [], 1 if direction(before.metric) is Direction.MAXIMIZE else -1
    for spec, rows, value in zip(asked, before.sets, before.values, strict=True):
        after = _value(run, rows, before.metric)
        drop = None if value is None or after is None else short(sign * (value - after))
        found.append(
            ForgettingStatus(
                uri=spec.uri, rows=len(rows), metric=before.metric, from_=value, to=after, drop=drop
            )
        )
        logger.info(f"{spec.uri}: {before.metric} {_text(value)} before training, {_text(after)} after")
    run.recorder.update(forgetting=found)
    for number, (spec, each) in enumerate(zip(asked, found, strict=True)):
        if spec.max_drop is not None and (each.drop is None or each.drop > spec.max_drop):
            raise GateNotPassedError(
                f"{FIELD}: {each.metric} on {spec.uri} was {_text(each.from_)} before training and is {_text(each.to)}:"
                f" worse by more than maxDrop {spec.max_drop:g}, or not defined; the model is not published",
                FaultPlace(field=f"{FIELD}[{number}].maxDrop"),
            )


def _value(run: Run, rows: Examples, metric: str) -> float | None:
    return short(score_apart(run, rows, f"{rows.name} was evaluated")[metric])


def _text(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4g}"
