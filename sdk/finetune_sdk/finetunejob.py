"""A FineTuneJob to submit: built from Python, read from YAML, validated without a cluster."""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any, Self

from finetune_api import API_VERSION, KIND
from finetune_api.base import ApiModel
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_sdk.errors import InvalidJobError
from finetune_sdk.validation import documents_in, faults_of
from finetune_sdk.yaml_files import write_documents

Body = dict[str, Any]


class FineTuneJob:
    """A valid job, as you would write it in YAML.

    The fields of the spec are dicts with the names of the YAML, or parts of finetune_api, for example
    `training=TrainingSpec(epochs=2)`. `metadata` has labels, annotations and the namespace, if any. Raises
    InvalidJobError with the place of everything that the API server or the operator would refuse.
    """

    def __init__(self, name: str, *, metadata: Mapping[str, Any] | None = None, **spec: Any) -> None:
        wire = {_wire_name(field): _wire(part) for field, part in spec.items() if part is not None}
        self._body: Body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name, **(metadata or {})},
            "spec": wire,
        }
        faults = list(faults_of(self._body))
        if self.name != name:
            faults.append(f"metadata.name: {self.name} contradicts the name {name}; remove it")
        if faults:
            raise InvalidJobError(faults)

    @classmethod
    def from_yaml(cls, file: str | Path) -> Self:
        """The only FineTuneJob of a YAML file. Raises InvalidJobError."""
        try:
            documents = documents_in(Path(file))
        except ValueError as error:
            raise InvalidJobError([str(error)]) from error
        if len(documents) > 1:
            raise InvalidJobError([f"{file} has {len(documents)} FineTuneJobs; use one file for each"])
        return cls.from_body(documents[0].body)

    @classmethod
    def from_body(cls, body: Body) -> Self:
        """The job of a wire form. Raises InvalidJobError."""
        if faults := list(faults_of(body)):
            raise InvalidJobError(faults)
        metadata = dict(body["metadata"])
        return cls(metadata.pop("name"), metadata=metadata, **body["spec"])

    @property
    def name(self) -> str:
        """Its name."""
        return str(self._body["metadata"]["name"])

    @property
    def spec(self) -> FineTuneJobSpec:
        """The typed spec, with every default."""
        return FineTuneJobSpec.from_json(self._body["spec"])

    def to_body(self) -> Body:
        """The wire form, without the defaults that the API server fills in."""
        return {**self._body, "metadata": dict(self._body["metadata"])}

    def to_yaml(self) -> str:
        """The wire form as YAML, for kubectl apply."""
        out = StringIO()
        write_documents([self._body], out)
        return out.getvalue()

    def __repr__(self) -> str:
        return f"FineTuneJob({self.name!r}, {', '.join(sorted(self._body['spec']))})"


def _wire(part: Any) -> Any:
    if isinstance(part, ApiModel):
        return part.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return part


def _wire_name(field: str) -> str:
    """The name in YAML of a field that is given by its Python name."""
    info = FineTuneJobSpec.model_fields.get(field)
    return (info.alias or field) if info else field
