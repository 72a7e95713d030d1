"""From URIs to mounts and paths, and from the spec to the RunConfig that the trainer reads.

Claims are mounted whole, inputs read-only; the output claim is mounted a second time, writable, at OUTPUT. What is
on the Hugging Face Hub has no mount: the trainer downloads it to the output claim.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune_api import uris
from finetune_api.dataset import DataFormat, DataSource, ValidationSpec
from finetune_api.model import ModelSpec
from finetune_api.run import (
    TERMINATION_LOG,
    DataInput,
    DatasetInput,
    Devices,
    JobIdentity,
    ModelInput,
    OutputPaths,
    ProgressEndpoint,
    RunConfig,
    ValidationSplit,
)
from finetune_api.status import Commit, ResolvedData, ResolvedModel
from finetune_operator.plan.effective import output_uri_of, resources_of
from finetune_operator.plan.job import Job
from finetune_operator.settings import OperatorSettings

CONFIG = "/etc/finetune"
OUTPUT = "/mnt/output"
TOKEN_PATH = "/var/run/finetune/token"  # noqa: S105 — where the kubelet puts it, not a secret
CA_FILE = "ca.crt"
METRICS_PORT = 9100


@dataclass(frozen=True)
class Mount:
    """A volume and where the container finds it."""

    volume: dict[str, Any]
    path: str
    read_only: bool = True


def path_of(uri: str) -> str:
    """Where an input's URI is found in the container; empty for hf://, as only its download tells."""
    if uris.is_hub(uri):
        return ""
    location = uris.parse(uri)
    return f"/mnt/{_kind(location)}/{location.name}/{location.path}"


def _kind(location: uris.Location) -> str:
    return {"pvc": "claims", "configMap": "configmaps"}[location.scheme]


def input_uris(job: Job) -> Iterator[str]:
    """Every URI that the job reads."""
    if job.spec.model:
        yield job.spec.model.uri
        if job.spec.model.tokenizer and job.spec.model.tokenizer.uri:
            yield job.spec.model.tokenizer.uri
    if job.spec.dataset:
        data = job.spec.dataset
        sources = (data.train, data.validation, data.test)
        yield from (source.uri for source in sources if source and source.uri)


def input_locations(job: Job) -> list[uris.Location]:
    """The claims and ConfigMaps that the job reads, each once, in the order of their first use."""
    places = [uris.parse(uri) for uri in input_uris(job) if not uris.is_hub(uri)]
    return list({(place.scheme, place.name): place for place in places}.values())


def uses_hub(job: Job) -> bool:
    """Whether the job reads anything from the Hub."""
    return any(map(uris.is_hub, input_uris(job)))


def mounts_of(job: Job) -> list[Mount]:
    """The volumes of inputs and output."""
    mounts = [_input_mount(number, place) for number, place in enumerate(input_locations(job))]
    output = uris.parse(output_uri_of(job))
    volume = {"name": "output", "persistentVolumeClaim": {"claimName": output.name}}
    return [*mounts, Mount(volume, OUTPUT, read_only=False)]


def _input_mount(number: int, place: uris.Location) -> Mount:
    name = f"input-{number}"
    if place.scheme == "pvc":
        # the mount is read-only, not the claim: a claim that is also the output must stay writable in the pod
        volume: dict[str, Any] = {"name": name, "persistentVolumeClaim": {"claimName": place.name}}
    else:
        volume = {"name": name, "configMap": {"name": place.name}}
    return Mount(volume, f"/mnt/{_kind(place)}/{place.name}")


def output_paths(job: Job) -> OutputPaths:
    """Model, staging and checkpoint folders, all on the output claim."""
    uri = output_uri_of(job)
    state = f"{OUTPUT}/.finetune/{job.uid}"
    return OutputPaths(
        model_dir=f"{OUTPUT}/{uris.parse(uri).path}",
        staging_dir=f"{state}/model",
        checkpoint_dir=f"{state}/checkpoints",
        hub_dir=f"{state}/hub" if uses_hub(job) else None,
        uri=uri,
    )


def run_config(job: Job, attempt: int, settings: OperatorSettings) -> RunConfig:
    """The RunConfig of an attempt of a job without a command of its own."""
    spec, training = job.spec, job.spec.resolved_training()
    assert spec.model and spec.dataset and spec.objective and training  # the spec's rules hold
    return RunConfig(
        job=JobIdentity(namespace=job.namespace, name=job.name, uid=job.uid, attempt=attempt),
        model=_model(job, spec.model),
        dataset=_dataset(job),
        objective=spec.objective,
        training=training,
        output=output_paths(job),
        devices=Devices(
            gpus=resources_of(job, settings).gpus_per_node or 0,
            simulated=settings.simulate_gpus,
        ),
        progress=_progress(settings),
        metrics_port=METRICS_PORT,
        termination_log=TERMINATION_LOG,
    )


def _model(job: Job, spec: ModelSpec) -> ModelInput:
    tokenizer = spec.tokenizer
    tokenizer_uri = tokenizer.uri if tokenizer else None
    return ModelInput(
        path=path_of(spec.uri),
        uri=spec.uri,
        revision=_revision(job, "model"),
        tokenizer_path=(path_of(tokenizer_uri) or None) if tokenizer_uri else None,
        tokenizer_uri=tokenizer_uri,
        tokenizer_revision=_revision(job, "tokenizer"),
        add_tokens=(tokenizer and tokenizer.add_tokens) or [],
        initialize=spec.initialize,
        freeze=spec.freeze,
        dropout=spec.dropout,
        layer_learning_rate_decay=spec.layer_learning_rate_decay,
        head=spec.head,
        adapter=spec.adapter,
    )


def _revision(job: Job, part: str) -> Commit | None:
    """The commit that an earlier attempt reported for a part of status.resolved."""
    found: ResolvedModel | ResolvedData | None = getattr(job.status.resolved, part, None)
    return found.revision if found else None


def _progress(settings: OperatorSettings) -> ProgressEndpoint | None:
    if not settings.progress_url:
        return None
    return ProgressEndpoint(
        url=f"{settings.progress_url}/v1/progress", token_path=TOKEN_PATH, ca_path=f"{CONFIG}/{CA_FILE}"
    )


def _dataset(job: Job) -> DatasetInput:
    spec = job.spec.dataset
    assert spec
    validation = spec.validation or ValidationSpec()
    return DatasetInput(
        train=_data(spec.train.uri, spec.train.format, _revision(job, "train")),
        validation=(
            _data(validation.uri, validation.format, _revision(job, "validation")) if validation.uri else None
        ),
        split=None if validation.uri else _split(validation),
        test=_data(spec.test.uri, spec.test.format, _revision(job, "test")) if spec.test else None,
        columns=spec.columns,
        preprocessing=spec.preprocessing,
        max_invalid_rows=spec.max_invalid_rows,
    )


def _data(uri: str, data_format: DataFormat | None, revision: Commit | None) -> DataInput:
    return DataInput(path=path_of(uri), uri=uri, revision=revision, format=data_format)


def _split(validation: ValidationSpec) -> ValidationSplit:
    return ValidationSplit(
        fraction=validation.fraction or 0.1,
        stratify=validation.stratify,
        group_by=validation.group_by,
    )


def script_environment(job: Job) -> dict[str, str]:
    """Where a script of one's own finds its inputs and puts its outputs."""
    paths = output_paths(job)
    env = {"FINETUNE_OUTPUT_DIR": paths.model_dir, "FINETUNE_CHECKPOINT_DIR": paths.checkpoint_dir}
    if job.spec.model:
        env |= _place("MODEL", "DIR", job.spec.model.uri)
    if job.spec.dataset:
        data = job.spec.dataset
        parts: dict[str, DataSource | ValidationSpec | None] = {
            "TRAIN": data.train,
            "VALIDATION": data.validation,
            "TEST": data.test,
        }
        for part, source in parts.items():
            env |= _place(part, "FILE", source.uri) if source and source.uri else {}
    return env


def _place(part: str, kind: str, uri: str) -> dict[str, str]:
    """A path on a claim, or the hf:// URI that the script itself downloads."""
    path = path_of(uri)
    return {f"FINETUNE_{part}_{kind}": path} if path else {f"FINETUNE_{part}_URI": uri}
