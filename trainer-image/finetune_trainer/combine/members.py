"""The members of a combination: whether each is whole, and whether they fit together. Imports no torch."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import safe_open

from finetune_api.combine import SOUPS, CombineConfig, MemberInput
from finetune_api.dataset import ColumnsSpec, PreprocessingSpec
from finetune_api.objective import ObjectiveSpec
from finetune_api.run import FaultPlace, ModelInput, ValidationSplit
from finetune_api.status import ModelStatus, ResolvedStatus
from finetune_trainer.errors import ConfigurationError, NotFoundError
from finetune_trainer.files import sha256
from finetune_trainer.models.folder import ModelFolder, check_folder
from finetune_trainer.models.load import DROPOUTS
from finetune_trainer.publishing.folder import sums_of, verified

HEAD = "custom_head.json"
"""What `shipped.custom_head`, which imports torch, calls DESCRIPTION."""
MANIFEST = "ensemble.json"
"""As `shipped.ensemble`, which imports torch, has it."""
_NO_ARCHITECTURE = {"_name_or_path", "transformers_version", "dtype", *DROPOUTS}
"""Fields of config.json that change no output of the same weights."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """What a member's run.json says of the rows that it was trained on."""

    resolved: ResolvedStatus
    split: ValidationSplit | None
    """With its seed; None where it held out none of its rows, or did not say so."""
    columns: ColumnsSpec
    preprocessing: PreprocessingSpec


@dataclass(frozen=True)
class Member:
    """A model that passed the checks which need no torch."""

    field: str
    """members.0, …"""
    folder: ModelFolder
    digest: str
    """sha256 of its SHA256SUMS."""
    config: Json
    """Its config.json."""
    objective: ObjectiveSpec
    model: ModelStatus
    """As its report describes it."""
    training: Training

    @property
    def name(self) -> str:
        """Its URI, or its folder."""
        return self.folder.name

    @property
    def outputs(self) -> list[str] | None:
        """Names of its outputs in their order; None where they are the vocabulary."""
        if self.objective.causal_lm:
            return None
        return [name for _, name in sorted(self.config["id2label"].items(), key=lambda item: int(item[0]))]

    @property
    def head(self) -> Json | None:
        """The description of a custom head."""
        path = self.folder.path / HEAD
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def weights(self) -> frozenset[tuple[str, str]]:
        """Names and digests of the files with its weights."""
        sums = sums_of(self.folder.path).items()
        return frozenset((name, digest) for name, digest in sums if name.endswith(".safetensors"))

    @property
    def has_batch_norm(self) -> bool:
        """Whether its weights have running statistics."""
        return any(name.endswith("running_mean") for name in self._tensors())

    def _tensors(self) -> Iterator[str]:
        for path in self.folder.path.glob("*.safetensors"):
            with safe_open(path, framework="numpy") as tensors:
                yield from tensors.keys()

    @property
    def architecture(self) -> Json:
        """All that decides what the same weights compute."""
        kept = {key: value for key, value in self.config.items() if key not in _NO_ARCHITECTURE}
        head = self.head or {}
        return kept | {"head": {key: value for key, value in head.items() if key != "dropout"}}


def read_members(config: CombineConfig) -> list[Member]:
    """Every member, verified byte by byte, and fit for the others.

    Raises NotFoundError for one that is missing, damaged or of another kind, ConfigurationError for those that do not
    fit together; both name the member.
    """
    members = [_read(f"members.{i}", each) for i, each in enumerate(config.members)]
    for member in members:
        _fits(member, members[0], config)
    _check_batch_norm(members, config)
    return members


def read_student(config: CombineConfig, folder: Path, first: Member) -> Member:
    """The trained student, verified as the members are, and fit for them."""
    student = _read("student", MemberInput(path=str(folder)))
    _fits(student, first, config)
    return student


def _check_batch_norm(members: list[Member], config: CombineConfig) -> None:
    """The mean of the members' running statistics is not what a model with their mean weights computes."""
    if config.combine not in SOUPS or config.dataset.train is not None:
        return
    for member in members:
        if member.has_batch_norm:
            raise ConfigurationError(
                f"{member.field}: {member.name} has batch normalisation, whose statistics have to be estimated anew"
                f" for {config.combine}: give dataset.train, the training rows of the members",
                FaultPlace(field="dataset.train", file=member.name),
            )


def _read(field: str, given: MemberInput) -> Member:
    path, name = Path(given.path), given.uri or given.path
    with named(field, name):
        if (path / "adapter_config.json").exists():
            raise NotFoundError(
                "it is an adapter without its base model; train it with model.adapter.lora.merge: true"
            )
        if (path / MANIFEST).exists() and not (path / "config.json").exists():
            raise NotFoundError(
                f"it is an ensemble itself; list the models that its {MANIFEST} names instead"
            )
        folder = check_folder(ModelInput(path=given.path, uri=given.uri))
        try:
            found = verified(path, name, field, given.digest)
        except NotFoundError as error:
            raise NotFoundError(f"{error.message}; restore the folder, or train it again") from error
        try:
            objective = ObjectiveSpec.model_validate(found.record["config"]["objective"])
            training = _training(found.record)
        except (ValidationError, KeyError, TypeError, AttributeError) as error:
            raise NotFoundError("its run.json does not say what it was trained for") from error
        config = json.loads((path / "config.json").read_text())
        return Member(field, folder, found.digest, config, objective, found.model, training)


def _training(record: Json) -> Training:
    resolved = ResolvedStatus.model_validate(record["report"].get("resolved") or {})
    dataset, training = record["config"].get("dataset") or {}, record["config"].get("training") or {}
    combination = record["config"].get("kind") == CombineConfig.__name__
    columns = ColumnsSpec.model_validate(dataset.get("columns") or {})
    preprocessing = PreprocessingSpec.model_validate(dataset.get("preprocessing") or {})
    if dataset.get("validation") or (combination and not dataset.get("split")):
        return Training(resolved, None, columns, preprocessing)
    split = ValidationSplit.model_validate(dataset.get("split") or {})
    seed = training.get("seed") if split.seed is None else split.seed
    return Training(resolved, split.model_copy(update={"seed": seed}), columns, preprocessing)


@contextmanager
def named(field: str, name: str) -> Iterator[None]:
    """Say which member an error is about."""
    try:
        yield
    except NotFoundError as error:
        message = error.message.removeprefix("model: ")
        raise NotFoundError(f"{field}: {name}: {message}", FaultPlace(field=field, file=name)) from error


def _fits(member: Member, first: Member, config: CombineConfig) -> None:
    reason = _misfit(member, first, config)
    if reason:
        place = FaultPlace(field=member.field, file=member.name)
        raise ConfigurationError(f"{member.field}: {member.name}: {reason}", place)


def _misfit(member: Member, first: Member, config: CombineConfig) -> str | None:
    """Why a member cannot be combined with the first as the configuration asks."""
    wanted, found = _shape(config.objective), _shape(member.objective)
    if found != wanted:
        return f"it was trained for {found}, and the combination is for {wanted}"
    labels = _labels_of(config.objective) or first.outputs
    if member.outputs != labels:
        return (
            f"its labels are {_format_labels(member.outputs)}, and not {_format_labels(labels)} in this order as"
            " those of the others"
        )
    if _tokenizer(member) != _tokenizer(first):
        return f"its tokenizer is another one than that of {first.name}; members read the same tokens"
    if config.combine in SOUPS and member.architecture != first.architecture:
        keys = sorted(key for key in member.architecture | first.architecture if _differs(key, member, first))
        return (
            f"its architecture is another one than that of {first.name} ({', '.join(keys[:5])}), and weights can be"
            " averaged only where it is the same"
        )
    return None


def _shape(objective: ObjectiveSpec) -> str:
    several = objective.classification and objective.classification.multi_label
    targets = objective.regression.targets if objective.regression else 1
    return f"{objective.kind}{' with multiLabel' if several else ''}{f' of {targets} targets' if targets > 1 else ''}"


def _labels_of(objective: ObjectiveSpec) -> list[str] | None:
    options = objective.classification or objective.token_classification
    return options.labels if options else None


def _format_labels(labels: list[str] | None) -> str:
    named = labels or []
    return ", ".join(named[:5]) + (f", … ({len(named)})" if len(named) > 5 else "")


def _tokenizer(member: Member) -> str | None:
    path = member.folder.path / "tokenizer.json"
    return sha256(path) if path.exists() else None


def _differs(key: str, member: Member, first: Member) -> bool:
    return bool(member.architecture.get(key) != first.architecture.get(key))
