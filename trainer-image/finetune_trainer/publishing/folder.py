"""The folder of a model: whose it is, and how it is sealed, verified and published."""

import json
import math
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from finetune_api.combine import CombineConfig, CombinePaths
from finetune_api.run import FaultPlace, RunReport
from finetune_api.status import ModelStatus
from finetune_trainer.config import Config, run_identity
from finetune_trainer.errors import (
    DivergedError,
    NotFoundError,
    StorageError,
    input_errors,
    storage_errors,
)
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
from finetune_trainer.layers.find import not_finite
from finetune_trainer.versions import versions

SUMS, RECORD, CARD = "SHA256SUMS", "run.json", "README.md"
_STAGED = re.compile(r"attempt-([0-9]+)-[0-9a-f]{32}")


class Publishable(Protocol):
    """What is published."""

    def write(self, folder: Path) -> ModelStatus:
        """Write the model's files into an empty folder; what is not known of it yet is added later."""

    def card(self, report: RunReport) -> str:
        """The model card, in Markdown."""


def published(config: Config) -> RunReport | None:
    """The report of this very run, if an earlier attempt published its model; None if the folder is free.

    Raises NotFoundError when the folder holds something else or is inside a model, which would no longer match its
    SHA256SUMS; StorageError when the published model is damaged.
    """
    folder, name = Path(config.output.model_dir), config.output.uri or config.output.model_dir
    place = FaultPlace(field="output.uri", file=name)
    if folder.exists() and not folder.is_dir():
        raise NotFoundError(f"output.uri: {name} is a file; choose another output.uri", place)
    if not folder.exists() or not any(folder.iterdir()):
        _check_outside(folder, name, place)
        return None
    record = record_of(folder)
    if record is None:
        raise NotFoundError(
            f"output.uri: {name} is not empty and is not the model of a job; choose another output.uri", place
        )
    if other := _other_run(record, config):
        raise NotFoundError(f"output.uri: {name} holds the model of {other}", place)
    damaged = integrity_errors(folder)
    if damaged:
        remedy = "restore the file, or remove the folder to train again"
        raise StorageError(f"the published model in {name} is damaged: {damaged[0]}; {remedy}", place)
    report = RunReport.model_validate(record["report"])
    return report.model_copy(update={"attempt": config.job.attempt, "model": _status(folder, report.model)})


def _check_outside(folder: Path, name: str, place: FaultPlace) -> None:
    """Raise NotFoundError for a folder inside a published model."""
    for outer in folder.parents:
        if record := record_of(outer):
            inside = folder.relative_to(outer).as_posix()
            raise NotFoundError(
                f"output.uri: {name} is inside {name.removesuffix(f'/{inside}')}, which holds the model of"
                f" {_job_of(record)}; choose another output.uri",
                place,
            )


def _job_of(record: dict[str, Any]) -> str:
    return f"job {record['job'].get('namespace')}/{record['job'].get('name')}"


def _other_run(record: dict[str, Any], config: Config) -> str | None:
    """Whose model a folder holds, with the remedy; None for this run's own."""
    job, remedy = record["job"], "choose another output.uri"
    own, same = job.get("uid") == config.job.uid, record["fingerprint"] == run_identity(config)
    if own:
        return None if same else f"an earlier run of this job with another configuration; {remedy}"
    owner = _job_of(record)
    if same:
        return f"{owner}, trained with the same configuration; use that model, or remove the folder to train again"
    return f"{owner}; {remedy}"


def record_of(folder: Path) -> dict[str, Any] | None:
    """run.json of a published folder; None where there is none."""
    try:
        record = json.loads((folder / RECORD).read_text())
        return (
            record if isinstance(record["job"], dict) and record["fingerprint"] and record["report"] else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Verified:
    """A model that this trainer published, whose files are as they were then."""

    record: dict[str, Any]
    """Its run.json."""
    digest: str
    """sha256 of its SHA256SUMS."""
    model: ModelStatus
    """As its report describes it."""


def verified(folder: Path, name: str, field: str, digest: str | None) -> Verified:
    """Read and verify a published folder, every byte of it. Raises NotFoundError with the reason."""
    with input_errors(name, field):
        record = record_of(folder) if (folder / SUMS).exists() else None
    if record is None:
        raise NotFoundError(f"it has no {SUMS} and {RECORD}, so it is no model that this trainer published")
    with input_errors(name, field):
        damaged, found = integrity_errors(folder), f"sha256:{sha256(folder / SUMS)}"
    if damaged:
        raise NotFoundError(f"it is damaged: {damaged[0]}")
    if digest not in (None, found):
        raise NotFoundError(f"its digest is {found}, not the {digest} that is expected")
    try:
        model = ModelStatus.model_validate(record["report"]["model"])
    except (ValidationError, KeyError, TypeError) as error:
        raise NotFoundError(f"its {RECORD} does not describe a model") from error
    return Verified(record, found, model)


def publish(
    config: Config,
    publishable: Publishable,
    report: RunReport,
    assert_owner: Callable[[], None] = lambda: None,
    *,
    check: Callable[[Path], None] | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> ModelStatus:
    """Stage, verify and rename; returns the model as it was recorded. Raises StorageError, NotFoundError.

    `check` raises an error for a staged folder that must not be published; default: `check_finite`. `recorded` replaces
    or adds fields of run.json.

    Staging takes minutes, so the owner of the run is checked again right before the rename. A process that is
    superseded in between may still publish: its successor then finds the model of the same job, and accepts it.
    """
    target = Path(config.output.model_dir)
    with storage_errors("the model", Path(config.output.staging_dir)):
        staging = _own_staging(Path(config.output.staging_dir), config.job.attempt)
        status = _stage(staging, config, publishable, report, recorded or {})
        (check or check_finite)(staging)
    with storage_errors("the model", target):
        assert_owner()
        done = published(config)
        if done is not None and done.model is not None:
            shutil.rmtree(staging, ignore_errors=True)
            return done.model
        target.parent.mkdir(parents=True, exist_ok=True)
        rename_folder(staging, target)
    return status


def _own_staging(folder: Path, attempt: int) -> Path:
    """A folder of this process alone, as an older attempt may still write; what older ones left is removed."""
    clear_staging(folder, attempt)
    return fresh_folder(folder / f"attempt-{attempt}-{uuid.uuid4().hex}")


def clear_staging(folder: Path, before: float = math.inf) -> None:
    """Remove what the attempts before one staged; without one, what all did."""
    for path in folder.glob("attempt-*"):
        staged = _STAGED.fullmatch(path.name)
        if staged and int(staged[1]) < before:
            shutil.rmtree(path, ignore_errors=True)


def clear_beside(path: Path, config: Config) -> None:
    """Remove what was staged, what lies beside a path and is not needed any more, and the folder that they are in.

    That are downloads, and once a search or an ensemble is published the tokens that its runs shared, and what its
    student left. A folder with something else in it stays, and so does one that is not this job's.
    """
    own, output = path.parent, config.output
    staging = Path(output.staging_dir)
    clear_staging(staging)
    with suppress(OSError):
        staging.rmdir()
    tokens = output.token_dir if isinstance(output, CombinePaths) else None
    student = config.student.work_dir if isinstance(config, CombineConfig) and config.student else None
    for folder in (output.hub_dir, tokens, student):
        if folder and Path(folder).parent == own:
            shutil.rmtree(folder, ignore_errors=True)
    if own.name == config.job.uid:
        with suppress(OSError):
            own.rmdir()
            own.parent.rmdir()


def _stage(
    folder: Path,
    config: Config,
    publishable: Publishable,
    report: RunReport,
    recorded: Mapping[str, Any],
) -> ModelStatus:
    written = publishable.write(folder)
    status = written.model_copy(
        update={
            "uri": config.output.uri or config.output.model_dir,
            "trained_at": written.trained_at or datetime.now(UTC).replace(microsecond=0),
        }
    )
    final = report.model_copy(update={"model": status})
    (folder / CARD).write_text(publishable.card(final))
    write_json(folder / RECORD, {**_run_record(config, final), **recorded})
    readable(folder)
    _write_sums(folder)
    sync_tree(folder)
    damaged = integrity_errors(folder)
    if damaged:
        raise StorageError(f"the model in {folder} does not read back as it was written: {damaged[0]}")
    return _status(folder, status)


def check_finite(folder: Path) -> None:
    """Raise DivergedError for a tensor with NaN or infinity; one tensor is in memory at a time."""
    from safetensors import safe_open

    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                tensor = tensors.get_tensor(name)
                broken = not_finite(tensor)
                if broken:
                    raise DivergedError(
                        f"the model is not published: {broken} of the {tensor.numel()} numbers of {name} in"
                        f" {path.name} are NaN or infinite; try a smaller training.optimizer.learningRate, or"
                        " output.dtype: Float32"
                    )


def _run_record(config: Config, report: RunReport) -> dict[str, Any]:
    given = config.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"progress", "termination_log"}
    )
    return {
        "version": 1,
        "job": config.job.to_json(),
        "fingerprint": run_identity(config),
        "config": given,
        "report": report.to_json(),
        "versions": versions(),
    }


def _write_sums(folder: Path) -> None:
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files_of(folder)]
    (folder / SUMS).write_text("".join(lines))
    sync(folder / SUMS)


def sums_of(folder: Path) -> dict[str, str]:
    """The digests in a folder's SHA256SUMS, by the path of the file inside it."""
    lines = [line.partition("  ") for line in (folder / SUMS).read_text(errors="replace").splitlines()]
    return {name: digest for digest, _, name in lines}


def integrity_errors(folder: Path) -> list[str]:
    """What in a folder differs from its SHA256SUMS; every file is read again."""
    expected = sums_of(folder)
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
