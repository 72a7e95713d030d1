"""The inputs of the images, and the tag derived from them (pure except for reading the files)."""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from finetune_cluster.errors import ClusterError

_SHARED = (
    "pyproject.toml",
    "requirements/bootstrap.txt",
    "cluster/images/build-backend.txt",
    "api/finetune_api",
)


@dataclass(frozen=True)
class ImageSpec:
    """One of our images: its key and name, and what it is built from, relative to the project."""

    key: str
    name: str
    dockerfile: str
    target: str
    inputs: tuple[str, ...]


_TRAINER_INPUTS = (*_SHARED, "requirements/trainer.txt", "trainer-image/finetune_trainer")


SPECS = (
    ImageSpec(
        "operator",
        "finetune-operator",
        "operator/Dockerfile",
        "operator",
        (*_SHARED, "requirements/operator.txt", "core/finetune_core", "operator/finetune_operator"),
    ),
    ImageSpec(
        "trainer",
        "finetune-trainer",
        "trainer-image/Dockerfile",
        "trainer",
        _TRAINER_INPUTS,
    ),
    ImageSpec(
        "script",
        "finetune-script",
        "trainer-image/Dockerfile",
        "script",
        (*_TRAINER_INPUTS, "requirements/scripts.txt"),
    ),
)


def chosen(keys: Collection[str]) -> tuple[ImageSpec, ...]:
    """The images with these keys; all where none is named."""
    if unknown := set(keys) - {spec.key for spec in SPECS}:
        known = ", ".join(spec.key for spec in SPECS)
        raise ClusterError(f"There is no image {', '.join(sorted(unknown))}; known are {known}")
    return tuple(spec for spec in SPECS if not keys or spec.key in keys)


def tag(spec: ImageSpec, project: Path) -> str:
    """A short hash of all inputs of the image build."""
    return content_hash(project, (spec.dockerfile, *spec.inputs))


def content_hash(root: Path, inputs: Iterable[str]) -> str:
    """Hash names and contents of files and folders below root; byte code and other leftovers are ignored."""
    digest = hashlib.sha256()
    for file in sorted({file for name in inputs for file in _files(root / name)}):
        name = file.relative_to(root).as_posix().encode()
        digest.update(len(name).to_bytes(4) + name + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ClusterError(f"{path} is missing; the image cannot be built without it")
    return [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
