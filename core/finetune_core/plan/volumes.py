"""From URIs to volumes and to the paths in the container.

Claims are mounted whole, inputs read-only; the output claim is mounted a second time, writable, at OUTPUT. What is
on the Hugging Face Hub has no mount: the trainer downloads it to the output claim.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune_api import uris
from finetune_api.model import Dtype
from finetune_api.run import OutputPaths
from finetune_core.plan.finetunejob import FineTuneJob

OUTPUT, OUTPUT_VOLUME = "/mnt/output", "output"


@dataclass(frozen=True)
class Mount:
    """A volume and where the container finds it."""

    volume: dict[str, Any]
    path: str
    read_only: bool = True
    file: str | None = None
    """The file of the volume to mount in place of the whole; may name variables of the container, as $(NAME)."""

    def in_container(self) -> dict[str, Any]:
        """The container's volumeMount."""
        part = {"subPathExpr": self.file} if self.file else {}
        return {"name": self.volume["name"], "mountPath": self.path, "readOnly": self.read_only} | part


def path_of(uri: str) -> str:
    """Where an input's URI is found in the container; empty for hf://, which only the download knows."""
    if uris.is_hub(uri):
        return ""
    location = uris.parse(uri)
    return f"{mount_path(location)}/{location.path}"


def mount_path(place: uris.Location) -> str:
    """Where the container finds a claim or a ConfigMap that it reads."""
    folder = {"pvc": "claims", "configMap": "configmaps"}[place.scheme]
    return f"/mnt/{folder}/{place.name}"


def input_uris(job: FineTuneJob) -> Iterator[str]:
    """Every URI that the job reads."""
    return (uri for _, uri in _input_fields(job))


def _input_fields(job: FineTuneJob) -> Iterator[tuple[str, str]]:
    """The same, each with the field that has it."""
    if job.spec.model:
        yield "spec.model.uri", job.spec.model.uri
        if job.spec.model.tokenizer and job.spec.model.tokenizer.uri:
            yield "spec.model.tokenizer.uri", job.spec.model.tokenizer.uri
    if data := job.spec.dataset:
        for name, source in (("train", data.train), ("validation", data.validation), ("test", data.test)):
            if source and source.uri:
                yield f"spec.dataset.{name}.uri", source.uri
    if job.spec.training:
        for number, other in enumerate(job.spec.training.evaluation.forgetting):
            yield f"spec.training.evaluation.forgetting[{number}].uri", other.uri
    if template := template_uri(job):
        yield "spec.objective.causalLM.chatTemplate", template


def fields_in(job: FineTuneJob, place: uris.Location) -> list[str]:
    """The fields whose URIs lead into this claim or ConfigMap."""
    asked = job.spec.output.uri if job.spec.output else None
    fields = [*_input_fields(job), *([("spec.output.uri", asked)] if asked else [])]
    found = [(field, uris.parse(uri)) for field, uri in fields if not uris.is_hub(uri)]
    return [field for field, of in found if (of.scheme, of.name) == (place.scheme, place.name)]


def place_of(job: FineTuneJob, volume: str, output_uri: str) -> uris.Location | None:
    """What a volume of a pod has, if it is one of the job's inputs or its output."""
    places = {_input_volume(number): place for number, place in enumerate(input_locations(job))}
    return (places | {OUTPUT_VOLUME: uris.parse(output_uri)}).get(volume)


def template_uri(job: FineTuneJob) -> str | None:
    """The URI of the chat template; None for one that is built in or the tokenizer's."""
    causal = job.spec.objective and job.spec.objective.causal_lm
    template = causal.chat_template if causal else None
    return template if template and "://" in template else None


def input_locations(job: FineTuneJob) -> list[uris.Location]:
    """The claims and ConfigMaps that the job reads, each once, in the order of their first use."""
    places = [uris.parse(uri) for uri in input_uris(job) if not uris.is_hub(uri)]
    return list({(place.scheme, place.name): place for place in places}.values())


def uses_hub(job: FineTuneJob) -> bool:
    """Whether the job has an hf:// input."""
    return any(map(uris.is_hub, input_uris(job)))


def mounts_of(job: FineTuneJob, output_uri: str) -> list[Mount]:
    """The volumes of inputs and output."""
    mounts = [_input_mount(number, place) for number, place in enumerate(input_locations(job))]
    output = uris.parse(output_uri)
    volume = {"name": OUTPUT_VOLUME, "persistentVolumeClaim": {"claimName": output.name}}
    return [*mounts, Mount(volume, OUTPUT, read_only=False)]


def _input_mount(number: int, place: uris.Location) -> Mount:
    name = _input_volume(number)
    if place.scheme == "pvc":
        # the mount is read-only, not the claim: a claim that is also the output must stay writable in the pod
        volume: dict[str, Any] = {"name": name, "persistentVolumeClaim": {"claimName": place.name}}
    else:
        volume = {"name": name, "configMap": {"name": place.name}}
    return Mount(volume, mount_path(place))


def _input_volume(number: int) -> str:
    return f"input-{number}"


def shared_tokens(parent_uid: str) -> str:
    """The folder with the tokens that the runs of a search or an ensemble share."""
    return f"{OUTPUT}/.finetune/{parent_uid}/tokens"


def student_folder(uid: str) -> str:
    """The folder of an ensemble's student while it trains."""
    return f"{OUTPUT}/.finetune/{uid}/student"


def output_paths(job: FineTuneJob, output_uri: str) -> OutputPaths:
    """Model, staging and checkpoint folders, all on the output claim."""
    state = f"{OUTPUT}/.finetune/{job.uid}"
    return OutputPaths(
        model_dir=f"{OUTPUT}/{uris.parse(output_uri).path}",
        staging_dir=f"{state}/model",
        checkpoint_dir=f"{state}/checkpoints",
        hub_dir=f"{state}/hub" if uses_hub(job) else None,
        token_dir=shared_tokens(job.parent_uid) if job.parent_uid else None,
        uri=output_uri,
        dtype=job.spec.output.dtype if job.spec.output else Dtype.AUTO,
    )
