"""A FineTuneJob to submit: built from Python, read from YAML, validated without a cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from finetune_api import API_VERSION, KIND
from finetune_api.base import ApiModel
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_sdk.errors import InvalidJobError
from finetune_sdk.validation import documents_in, faults_of

Body = dict[str, Any]


@dataclass(frozen=True)
class FineTuneJob:
    """A valid job: its name, its spec, and labels and annotations if it has any."""

    name: str
    spec: FineTuneJobSpec
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def build(cls, name: str, *, metadata: Mapping[str, Any] | None = None, **spec: Any) -> Self:
        """A job from the fields of its spec, as dicts with the names of the YAML or as parts of finetune_api.

        Raises InvalidJobError with the place of everything that the API server would refuse.
        """
        wire = {_wire_name(key): _wire(part) for key, part in spec.items() if part is not None}
        return cls.from_body(
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "metadata": {"name": name, **(metadata or {})},
                "spec": wire,
            }
        )

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
        meta = dict(body["metadata"])
        return cls(meta.pop("name"), FineTuneJobSpec.from_json(body["spec"]), meta)

    def to_body(self) -> Body:
        """The wire form, without the defaults that the API server fills in."""
        spec = self.spec.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
        meta = {"name": self.name, **self.metadata}
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": meta, "spec": spec}

    def to_yaml(self) -> str:
        """The wire form as YAML, for kubectl apply."""
        from io import StringIO

        from ruamel.yaml import YAML

        out = StringIO()
        YAML().dump(self.to_body(), out)
        return out.getvalue()


def _wire(part: Any) -> Any:
    if isinstance(part, ApiModel):
        return part.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return part


def _wire_name(name: str) -> str:
    """The name in YAML of a field that is given by its Python name."""
    info = FineTuneJobSpec.model_fields.get(name)
    return (info.alias or name) if info else name
