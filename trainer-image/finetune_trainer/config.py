"""Reads run.json, and checks what the contract's types cannot: called once by `__main__`, without torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.metrics import COMMON, OBJECTIVES, plain
from finetune_api.overrides import OverrideError, overridden
from finetune_api.run import TERMINATION_LOG, FaultPlace, RunConfig
from finetune_trainer.errors import ConfigurationError, input_errors

PLACES = {"path", "revision", "tokenizer_path", "tokenizer_uri", "tokenizer_revision"}
"""Fields of inputs that say where they lie; what lies there is in their digests."""


def read_config(path: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The run's configuration with other values at some paths, and with every training default written out.

    Raises ConfigurationError with the field's path, NotFoundError when the file cannot be read.
    """
    with input_errors(str(path), "RUN.json"):
        text = path.read_bytes()
    try:
        config = RunConfig.model_validate_json(text)
    except ValidationError as error:
        raise _refused(path, error) from error
    if overrides:
        config = _with(config, overrides)
    _check_metrics(config)
    _check_split(config)
    training = config.training.resolved(config.objective.kind, config.dataset.preprocessing.max_length)
    return config.model_copy(update={"training": training})


def _with(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    try:
        return RunConfig.from_json(overridden(config.to_json(), overrides, RunConfig))
    except OverrideError as error:
        raise ConfigurationError(f"--set {error}", FaultPlace(field=error.place)) from error


def termination_log(path: Path, overrides: Mapping[str, Any] | None = None) -> Path | None:
    """Where the report goes: as run.json says, even one that is not valid; else the pod's default if there is one."""
    try:
        found = (json.loads(path.read_bytes()) | (overrides or {})).get("terminationLog")
    except (OSError, ValueError, TypeError, AttributeError):
        found = TERMINATION_LOG if Path(TERMINATION_LOG).exists() else None
    return Path(found) if isinstance(found, str) else None


def fingerprint(config: RunConfig, inputs: dict[str, str | None]) -> str:
    """sha256 of all that decides the resulting weights: the configuration and the digests of the inputs.

    Where things lie, on what they compute and how often they are saved is left out: an attempt on another
    node, or one that was suspended and given other resources, goes on from the same checkpoints. So are fields at
    their defaults: a newer version of the contract that adds one changes nothing.
    """
    decisive = config.model_dump(
        mode="json",
        include={"model", "dataset", "objective", "training"},
        exclude_defaults=True,
        exclude={"training": {"checkpoint"}, "model": PLACES},
    )
    for part in ("train", "validation", "test"):
        for name in PLACES:
            decisive["dataset"].get(part, {}).pop(name, None)
    return _sha256({"config": decisive, "inputs": inputs})


def _sha256(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _refused(path: Path, error: ValidationError) -> ConfigurationError:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    where = f"{path}: {field}: " if field else f"{path}: "
    return ConfigurationError(f"{where}{reason}{more}", FaultPlace(field=field or None, file=str(path)))


def _check_metrics(config: RunConfig) -> None:
    evaluation, stopping = config.training.evaluation, config.training.early_stopping
    known = COMMON | OBJECTIVES[config.objective.kind]
    chosen = {"training.evaluation.bestMetric": [evaluation.best_metric]}
    chosen["training.evaluation.metrics"] = list(evaluation.metrics or [])
    chosen["training.earlyStopping.metric"] = [stopping.metric] if stopping and stopping.metric else []
    for field, names in chosen.items():
        for name in names:
            if plain(name) not in known:
                raise ConfigurationError(
                    f"{field}: {config.objective.kind} has no {name}; use {', '.join(known)}",
                    FaultPlace(field=field),
                )


def _check_split(config: RunConfig) -> None:
    split = config.dataset.split
    if split is None or not split.stratify:
        return
    if config.objective.kind != "classification" or split.group_by:
        raise ConfigurationError(
            "dataset.split.stratify needs labels and cannot be combined with groupBy; remove it",
            FaultPlace(field="dataset.split.stratify"),
        )
