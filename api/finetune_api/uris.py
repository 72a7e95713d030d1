"""URIs of models, data and outputs: `pvc://CLAIM/PATH`, `configMap://NAME/KEY` and `hf://REPOSITORY`.

hf:// URIs follow huggingface_hub's file system: `hf://ORG/NAME@REVISION` is a model,
`hf://datasets/ORG/NAME@REVISION/PATH` a file of a dataset. A revision is a branch, a tag, a commit, or one of the
Hub's own references: refs/pr/NUMBER and refs/convert/parquet.

A path on the machine is not a URI. It appears only in a RunConfig, which the operator writes for a pod, or a
person for a run on a laptop.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import Field

from finetune_api.base import Rule, TextRule

HUB = "hf://"
_NAME = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.=@+ -]{0,126}"
_CLAIM = rf"^pvc://{_NAME}(/{_SEGMENT})+$"
_FILES = r"[A-Za-z0-9_*?][A-Za-z0-9_.=@+ *?-]{0,126}"
"""The last segment of a URI of data: a name, or a pattern of names."""
_CLAIM_DATA = rf"^pvc://{_NAME}(/{_SEGMENT})*/{_FILES}$"
_CONFIG_MAP = rf"^configMap://{_NAME}/[-._a-zA-Z0-9*?]{{1,253}}$"
_CONFIG_MAP_KEY = rf"^configMap://{_NAME}/[-._a-zA-Z0-9]{{1,253}}$"
_HUB_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
_HUB_REVISION = r"(refs/(convert/[a-z]{1,32}|pr/[0-9]{1,9})|[A-Za-z0-9][A-Za-z0-9_.-]{0,127})"
_REPOSITORY = rf"({_HUB_NAME}/)?{_HUB_NAME}"
_REVISION = rf"(@{_HUB_REVISION})?"
_HUB_MODEL = rf"^hf://{_REPOSITORY}{_REVISION}$"
_HUB_DATA = rf"^hf://datasets/{_HUB_NAME}/{_HUB_NAME}{_REVISION}(/{_SEGMENT})*/{_FILES}$"
_HUB_PARTS = (
    rf"hf://(datasets/(?P<dataset>{_HUB_NAME}/{_HUB_NAME})(@(?P<of_dataset>{_HUB_REVISION}))?/(?P<path>({_SEGMENT}/)*{_FILES})"
    rf"|(?P<model>{_REPOSITORY})(@(?P<of_model>{_HUB_REVISION}))?)"
)
_HELP = "without '..', '%' or '\\'"


def _rule(patterns: list[str], message: str) -> TextRule:
    cel = " || ".join(f"self.matches(r'{pattern}')" for pattern in patterns)
    compiled = [re.compile(pattern) for pattern in patterns]

    def holds(text: str) -> bool:
        return ".." not in text and any(pattern.fullmatch(text) for pattern in compiled)

    return TextRule(Rule(f"!self.contains('..') && ({cel})", message, holds))


ClaimUri = Annotated[
    str,
    Field(max_length=512),
    _rule(
        [_CLAIM],
        f"write pvc://CLAIM/PATH, a folder or file on a PersistentVolumeClaim in this namespace, {_HELP}",
    ),
]
ModelUri = Annotated[
    str,
    Field(max_length=512),
    _rule(
        [_CLAIM, _HUB_MODEL],
        "write pvc://CLAIM/PATH, a folder on a PersistentVolumeClaim in this namespace, or hf://ORG/NAME@REVISION, a "
        f"model on the Hugging Face Hub, {_HELP}",
    ),
]
LocalDataUri = Annotated[
    str,
    Field(max_length=512),
    _rule(
        [_CLAIM_DATA, _CONFIG_MAP],
        "give these rows as pvc://CLAIM/PATH or configMap://NAME/KEY (copy data of the Hub to a claim first),"
        f" {_HELP}; * and ? only in the last part",
    ),
]
DataUri = Annotated[
    str,
    Field(max_length=512),
    _rule(
        [_CLAIM_DATA, _CONFIG_MAP, _HUB_DATA],
        "write pvc://CLAIM/PATH, a file on a PersistentVolumeClaim in this namespace, configMap://NAME/KEY for data of "
        "up to 1 MiB, or hf://datasets/ORG/NAME@REVISION/PATH on the Hugging Face Hub, "
        f"{_HELP}; * and ? only in the last part",
    ),
]

BUILT_IN_TEMPLATES = ("ChatML", "Plain")
TemplateRef = Annotated[
    str,
    Field(max_length=512),
    _rule(
        [rf"^({'|'.join(BUILT_IN_TEMPLATES)})$", _CLAIM, _CONFIG_MAP_KEY],
        f"write {' or '.join(BUILT_IN_TEMPLATES)}, or the URI of a file with a Jinja template: pvc://CLAIM/PATH or"
        f" configMap://NAME/KEY, {_HELP}",
    ),
]
"""A chat template: the name of one that is built in, or the URI of a file."""


@dataclass(frozen=True)
class Location:
    """A parsed URI: its scheme, the name of the Kubernetes object, and the path or key inside it."""

    scheme: str
    name: str
    path: PurePosixPath

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}/{self.path}"


def parse(uri: str) -> Location:
    """Parse a validated URI of a claim or ConfigMap."""
    scheme, _, rest = uri.partition("://")
    name, _, path = rest.partition("/")
    return Location(scheme, name, PurePosixPath(path))


@dataclass(frozen=True)
class HubLocation:
    """A model repository of the Hugging Face Hub, or a file in a dataset repository."""

    repository: str
    revision: str | None
    path: str | None
    """The file in a dataset repository, or a pattern of files; None for a model."""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        if self.path is None:
            return f"{HUB}{self.repository}{revision}"
        return f"{HUB}datasets/{self.repository}{revision}/{self.path}"


def is_hub(uri: str | None) -> bool:
    """Whether a URI names something on the Hugging Face Hub."""
    return uri is not None and uri.startswith(HUB)


def parse_hub(uri: str) -> HubLocation:
    """Parse an hf:// URI. Raises ValueError if it has another form."""
    found = re.fullmatch(_HUB_PARTS, uri)
    if found is None:
        raise ValueError(f"{uri} is neither hf://ORG/NAME@REVISION nor hf://datasets/ORG/NAME@REVISION/PATH")
    model, dataset, path = found["model"], found["dataset"], found["path"]
    return HubLocation(dataset or model, found["of_dataset" if dataset else "of_model"], path)
