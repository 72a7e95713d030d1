"""The curves of jobs: from their statuses in a cluster, or from the folders of local runs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.metrics import plain
from finetune_api.status import EpochStatus, FineTuneJobStatus
from finetune_cli.errors import CommandError
from finetune_core import lenient
from finetune_sdk import Client

Point = tuple[float, float]
TRAIN = "train loss"


@dataclass(frozen=True)
class Curve:
    """One line: its label, and its points as (epoch, value)."""

    label: str
    points: list[Point]


def statuses_of(names: list[str], client: Client | None) -> dict[str, FineTuneJobStatus]:
    """The statuses by name. A name that is a folder with a job.json, or such a file, is read there.

    A folder is called by its last part, unless two have the same. Raises CommandError.
    """
    short = [Path(name).absolute().name for name in names]
    found = {}
    for name, last in zip(names, short, strict=True):
        path = Path(name)
        if path.exists():
            label = last if short.count(last) == 1 else name
            found[label] = _local(path / "job.json" if path.is_dir() else path)
        else:
            assert client
            found[name] = client.get(name).status
    return found


def curves_of(statuses: dict[str, FineTuneJobStatus], metric: str) -> list[Curve]:
    """The metric on the validation rows of each job, and the training loss beside the loss. Raises CommandError."""
    several, wanted = len(statuses) > 1, plain(metric)
    curves = []
    for name, status in statuses.items():
        prefix = f"{name} " if several else ""
        if wanted == "loss" and not several:
            curves.append(
                Curve(TRAIN, [(e.epoch, e.train_loss) for e in status.epochs if e.train_loss is not None])
            )
        curves.append(Curve(f"{prefix}eval {wanted}", list(_values(status.epochs, wanted))))
    curves = [curve for curve in curves if curve.points]
    if not curves:
        known = sorted(
            {name for status in statuses.values() for epoch in status.epochs for name in epoch.metrics}
        )
        has = (
            f"; it has loss{''.join(f', {name}' for name in known)}"
            if known
            else ", or none was evaluated yet"
        )
        raise CommandError(f"no evaluation of {', '.join(statuses)} has {wanted}{has}")
    return curves


def _values(epochs: list[EpochStatus], metric: str) -> Iterator[Point]:
    for epoch in epochs:
        value = epoch.eval_loss if metric == "loss" else epoch.metrics.get(metric)
        if value is not None:
            yield epoch.epoch, value


def _local(file: Path) -> FineTuneJobStatus:
    try:
        body: Any = json.loads(file.read_text(encoding="utf-8"))
        return lenient.read(FineTuneJobStatus, body["status"])[0]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandError(
            f"{file}: no FineTuneJob with a status; finetune local writes one as job.json"
        ) from error
