"""The model's folder: whose it is, how it is put together, verified and published. Called by `run`."""

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_api.run import FaultPlace, RunConfig, RunReport
from finetune_api.status import Metrics, ModelStatus
from finetune_trainer.adapters import model_format, save_weights
from finetune_trainer.config import fingerprint
from finetune_trainer.errors import NotFoundError, StorageError, storage_errors
from finetune_trainer.files import (
    files_of,
    fresh_folder,
    readable,
    rename_folder,
    sha256,
    sync,
    sync_tree,
    write_json,
)
from finetune_trainer.history import History
from finetune_trainer.model import reset_tokenizer
from finetune_trainer.storage.card import model_card
from finetune_trainer.storage.curve import draw_curve
from finetune_trainer.versions import versions

SUMS, RECORD = "SHA256SUMS", "run.json"


@dataclass(frozen=True)
class Trained:
    """What is published."""

    model: Any
    tokenizer: Any
    metrics: Metrics
    history: History
    looks: Path | None = None
    """A folder with what training.debug asked for."""


def published(config: RunConfig) -> RunReport | None:
    """The report of this very run, if an earlier attempt published its model; None if the folder is free.

    Raises NotFoundError when the folder holds something else, StorageError when the published model is damaged.
    """
    folder, name = Path(config.output.model_dir), config.output.uri or config.output.model_dir
    place = FaultPlace(field="output.uri", file=name)
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise NotFoundError(f"output.uri: {name} is a file; choose another output.uri", place)
    if not any(folder.iterdir()):
        return None
    record = _record(folder)
    if record is None:
        raise NotFoundError(
            f"output.uri: {name} is not empty and holds no model of a job; choose another output.uri", place
        )
    job = record["job"]
    if job.get("uid") != config.job.uid or record["fingerprint"] != fingerprint(config, {}):
        owner = f"job {job.get('namespace')}/{job.get('name')}"
        run = (
            "an earlier run of this job with another configuration"
            if job.get("uid") == config.job.uid
            else owner
        )
        raise NotFoundError(f"output.uri: {name} holds the model of {run}; choose another output.uri", place)
    damaged = flaws(folder)
    if damaged:
        raise StorageError(f"the published model in {name} is damaged: {damaged[0]}", place)
    report = RunReport.model_validate(record["report"])
    return report.model_copy(update={"attempt": config.job.attempt, "model": _status(folder, report.model)})


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_text())
        return (
            record if isinstance(record["job"], dict) and record["fingerprint"] and record["report"] else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def publish(config: RunConfig, trained: Trained, report: RunReport) -> ModelStatus:
    """Stage, verify and rename; returns the model as it was recorded. Raises StorageError, NotFoundError."""
    staging, target = Path(config.output.staging_dir), Path(config.output.model_dir)
    name = config.output.uri or config.output.model_dir
    with storage_errors("the model", staging):
        fresh_folder(staging)
        status = _stage(staging, config, trained, report, name)
    with storage_errors("the model", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and any(target.iterdir()):
            raise NotFoundError(
                f"output.uri: {name} was filled by another run meanwhile; choose another output.uri",
                FaultPlace(field="output.uri", file=name),
            )
        rename_folder(staging, target)
    return status


def _stage(folder: Path, config: RunConfig, trained: Trained, report: RunReport, name: str) -> ModelStatus:
    save_weights(trained.model, config.model, folder)
    reset_tokenizer(trained.tokenizer)
    trained.tokenizer.save_pretrained(str(folder))
    trained.history.rewind(2**62)
    (folder / "metrics.jsonl").write_bytes(trained.history.path.read_bytes())
    if trained.looks is not None:
        shutil.copytree(trained.looks, folder, dirs_exist_ok=True)
    draw_curve(
        folder / "learning-curve.png", trained.history.entries(), config.training.evaluation.best_metric
    )
    status = ModelStatus(
        uri=name,
        format=model_format(config.model),
        base_model=config.model.uri or config.model.path,
        metrics=trained.metrics,
        trained_at=datetime.now(UTC).replace(microsecond=0),
    )
    final = report.model_copy(update={"model": status})
    (folder / "README.md").write_text(model_card(config, final))
    write_json(folder / RECORD, _run_record(config, final))
    readable(folder)
    _write_sums(folder)
    sync_tree(folder)
    damaged = flaws(folder)
    if damaged:
        raise StorageError(f"the model in {folder} does not read back as it was written: {damaged[0]}")
    return _status(folder, status)


def _run_record(config: RunConfig, report: RunReport) -> dict[str, Any]:
    told = config.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"progress", "termination_log"}
    )
    return {
        "version": 1,
        "job": config.job.to_json(),
        "fingerprint": fingerprint(config, {}),
        "config": told,
        "report": report.to_json(),
        "versions": versions(),
    }


def _write_sums(folder: Path) -> None:
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files_of(folder)]
    (folder / SUMS).write_text("".join(lines))
    sync(folder / SUMS)


def flaws(folder: Path) -> list[str]:
    """What in a folder differs from its SHA256SUMS; every file is read again."""
    lines = [line.split("  ", 1) for line in (folder / SUMS).read_text().splitlines()]
    expected = {name: digest for digest, name in lines}
    found = {path.relative_to(folder).as_posix(): path for path in files_of(folder)}
    found.pop(SUMS, None)
    unlisted = [f"{name} is not listed in {SUMS}" for name in found.keys() - expected.keys()]
    missing = [f"{name} is missing" for name in expected.keys() - found.keys()]
    damaged = [
        f"{name} is damaged"
        for name in found.keys() & expected.keys()
        if sha256(found[name]) != expected[name]
    ]
    return sorted(missing + damaged + unlisted)


def _status(folder: Path, status: ModelStatus | None) -> ModelStatus:
    assert status is not None, "a published report has a model"
    files = files_of(folder)
    return status.model_copy(
        update={
            "digest": f"sha256:{sha256(folder / SUMS)}",
            "size_bytes": sum(path.stat().st_size for path in files),
            "files": len(files),
        }
    )
