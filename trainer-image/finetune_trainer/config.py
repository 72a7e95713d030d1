"""Reads run.json, and checks what the contract's types cannot: called once by `__main__`, without torch."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from itertools import permutations
from os.path import realpath
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from finetune_api.combine import CombineConfig, CombinePaths, Publish, unfit
from finetune_api.metrics import COMMON, DEFAULTS, OBJECTIVES, plain
from finetune_api.model import Dtype
from finetune_api.overrides import OverrideError, overridden
from finetune_api.preflight import PreflightConfig
from finetune_api.run import TERMINATION_LOG, FaultPlace, RunConfig
from finetune_api.summary import SummaryConfig
from finetune_api.training import TrainingSpec
from finetune_trainer.errors import ConfigurationError, input_errors

Config = RunConfig | CombineConfig | SummaryConfig
"""What publishes a model."""
Given = Config | PreflightConfig
RUN_CONFIG = "RunConfig"
KINDS: dict[str, type[Given]] = {
    RUN_CONFIG: RunConfig,
    "CombineConfig": CombineConfig,
    "SummaryConfig": SummaryConfig,
    "PreflightConfig": PreflightConfig,
}
"""What a file is read as; one without a kind is a RunConfig."""
PLACES = {"path", "revision", "tokenizer_path", "tokenizer_uri", "tokenizer_revision"}
"""Fields of inputs that say where they lie; what lies there is in their digests."""


def read_config(path: Path, overrides: Mapping[str, Any] | None = None) -> Given:
    """The run's configuration with other values at some paths, and with every training default written out.

    Raises ConfigurationError with the field's path, NotFoundError when the file cannot be read.
    """
    with input_errors(str(path), "RUN.json"):
        text = path.read_bytes()
    config = _with(_parsed(path, text), overrides or {})
    if isinstance(config, PreflightConfig):
        return config.model_copy(update={"run": _checked_run(config.run)})
    if isinstance(config, RunConfig):
        return _checked_run(config)
    _check_folders(config)
    if config.search is not None:
        _check_report_folder(config.search.report_dir, config.output)
    if isinstance(config, SummaryConfig):
        return config
    return _checked_combination(config)


def _checked_run(config: RunConfig) -> RunConfig:
    _check_folders(config)
    _check_metrics(config.objective.kind, config.training)
    _check_split(config)
    training = config.training.resolved(config.objective.kind, config.dataset.preprocessing.max_length)
    return config.model_copy(update={"training": training})


def _parsed(path: Path, text: bytes) -> Given:
    try:
        named = json.loads(text)["kind"]
    except (ValueError, KeyError, TypeError):
        named = RUN_CONFIG
    kind = KINDS.get(named) if isinstance(named, str) else None
    if kind is None:
        raise ConfigurationError(
            f"{path}: kind {named!r} is not one that this version of the trainer reads ({', '.join(KINDS)}); correct"
            " it, or use a newer trainer image",
            FaultPlace(field="kind"),
        )
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise _refused(path, error) from error


def _with(config: Given, overrides: Mapping[str, Any]) -> Given:
    if not overrides:
        return config
    kind: type[Given] = type(config)
    try:
        return kind.from_json(overridden(config.to_json(), overrides, kind))
    except OverrideError as error:
        raise ConfigurationError(f"--set {error}", FaultPlace(field=error.place)) from error


def _checked_combination(config: CombineConfig) -> CombineConfig:
    kind = config.objective.kind
    reason = unfit(config.combine, kind)
    if reason:
        raise ConfigurationError(f"combine: {reason}", FaultPlace(field="combine"))
    _check_names(kind, {"bestMetric": [config.best_metric], "metrics": config.metrics or []})
    _check_split(config)
    student = config.student
    if student is not None:
        _check_metrics(kind, student.training, "student.")
        training = student.training.resolved(kind, config.dataset.preprocessing.max_length)
        student = student.model_copy(update={"training": training})
    return config.model_copy(update={"metrics": config.metrics or DEFAULTS[kind], "student": student})


def termination_log(path: Path, overrides: Mapping[str, Any] | None = None) -> Path | None:
    """Where the report goes: as run.json says, even one that is not valid; else the pod's default if there is one."""
    try:
        found = (json.loads(path.read_bytes()) | (overrides or {})).get("terminationLog")
    except (OSError, ValueError, TypeError, AttributeError):
        found = TERMINATION_LOG if Path(TERMINATION_LOG).exists() else None
    return Path(found) if isinstance(found, str) else None


def fingerprint(config: RunConfig, inputs: dict[str, str | None]) -> str:
    """sha256 of all that decides the resulting weights: the configuration and the digests of the inputs.

    Paths, devices and checkpoint intervals do not count: an attempt on another node, or one that was suspended and
    got other resources, resumes from the same checkpoints. Neither do fields at their defaults, so a newer version of
    the contract that adds one changes nothing.
    """
    decisive = config.model_dump(
        mode="json",
        include={"model", "dataset", "objective", "training", "distillation"},
        exclude_defaults=True,
        exclude={
            "training": {"checkpoint"},
            "model": PLACES,
            "dataset": {"forgetting"},
            "distillation": {"outputs"},
        },
    )
    for part in ("train", "validation", "test"):
        for name in PLACES:
            decisive["dataset"].get(part, {}).pop(name, None)
    return _sha256({"config": decisive, "inputs": inputs})


def run_identity(config: Config) -> str:
    """sha256 by which a published folder is known as that of this run: of the configuration alone."""
    if isinstance(config, RunConfig):
        dtype, trained = config.output.dtype, fingerprint(config, {})
        return trained if dtype is Dtype.AUTO else _sha256({"trained": trained, "dtype": dtype.value})
    if isinstance(config, SummaryConfig):
        return _sha256({"winner": [config.model.uri or config.model.path, config.model.digest]})
    decisive = config.model_dump(
        mode="json",
        include={"combine", "dataset", "objective", "metrics", "best_metric", "missing", "student"},
        exclude_defaults=True,
        exclude={"student": {"training": {"checkpoint"}, "model": PLACES, "work_dir": True}},
    )
    for part in ("train", "validation", "test"):
        for name in PLACES:
            decisive["dataset"].get(part, {}).pop(name, None)
    if config.publish is not Publish.ALWAYS:  # as it was before there was a choice
        decisive["publish"] = config.publish.value
    decisive["members"] = [[member.uri or member.path, member.digest] for member in config.members]
    return _sha256(decisive)


def _sha256(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _refused(path: Path, error: ValidationError) -> ConfigurationError:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    where = f"{path}: {field}: " if field else f"{path}: "
    return ConfigurationError(f"{where}{reason}{more}", FaultPlace(field=field or None, file=str(path)))


def _check_folders(config: Config) -> None:
    """No folder may be or hold another: what lies in them is cleared, but for the model, which takes its own whole."""
    output = config.output
    named = output.model_dump(by_alias=True, exclude={"uri"}, exclude_none=True)
    given = {f"output.{name}": path for name, path in named.items()}
    if isinstance(config, CombineConfig) and config.student is not None:
        given["student.workDir"] = config.student.work_dir
    for (outer, holder), (inner, held) in permutations(given.items(), 2):
        whole, part = Path(realpath(holder)), Path(realpath(held))
        if part.is_relative_to(whole):
            relation = "is also" if part == whole else "holds"
            raise ConfigurationError(
                f"{outer}: {holder} {relation} {inner}, {held}; use separate folders, for example"
                " out/model, out/.staging and out/.checkpoints",
                FaultPlace(field=outer),
            )
    if _device(Path(output.model_dir)) != _device(Path(output.staging_dir)):
        raise ConfigurationError(
            f"output.stagingDir: {output.staging_dir} is on another file system than output.modelDir,"
            f" {output.model_dir}, so that no rename can publish the model; give a folder beside it",
            FaultPlace(field="output.stagingDir"),
        )


def _check_report_folder(report: str, output: CombinePaths) -> None:
    """The report may not lie in the model's folder, which SHA256SUMS lists, nor in the one that is cleared."""
    for field in ("model_dir", "staging_dir"):
        holder = getattr(output, field)
        if Path(realpath(report)).is_relative_to(realpath(holder)):
            raise ConfigurationError(
                f"search.reportDir: {report} is in output.{to_camel(field)}, {holder}; give a folder beside it",
                FaultPlace(field="search.reportDir"),
            )


def _device(folder: Path) -> int | None:
    """The file system that a folder is on, or will be on once it is made."""
    resolved = Path(realpath(folder))
    for path in (resolved, *resolved.parents):
        with suppress(OSError):  # it is not there, or not to be looked at
            return path.stat().st_dev
    return None


def _check_metrics(kind: str, training: TrainingSpec, root: str = "") -> None:
    evaluation, stopping = training.evaluation, training.early_stopping
    chosen = {f"{root}training.evaluation.bestMetric": [evaluation.best_metric]}
    chosen[f"{root}training.evaluation.metrics"] = list(evaluation.metrics or [])
    chosen[f"{root}training.earlyStopping.metric"] = [stopping.metric] if stopping and stopping.metric else []
    _check_names(kind, chosen)


def _check_names(kind: str, chosen: dict[str, list[str]]) -> None:
    known = COMMON | OBJECTIVES[kind]
    for field, names in chosen.items():
        for name in names:
            if plain(name) not in known:
                raise ConfigurationError(
                    f"{field}: {kind} has no {name}; use {', '.join(known)}", FaultPlace(field=field)
                )


def _check_split(config: RunConfig | CombineConfig) -> None:
    split = config.dataset.split
    if split is None or not split.stratify:
        return
    if config.objective.kind != "classification" or split.group_by:
        raise ConfigurationError(
            "dataset.split.stratify needs labels and cannot be combined with groupBy; remove it",
            FaultPlace(field="dataset.split.stratify"),
        )
