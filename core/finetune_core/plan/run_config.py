"""From the spec to the RunConfig that the trainer reads."""

from finetune_api.dataset import DataFormat, ValidationSpec
from finetune_api.model import ModelSpec, ModelTechniques
from finetune_api.run import (
    TERMINATION_LOG,
    DataInput,
    DatasetInput,
    Devices,
    JobIdentity,
    ModelInput,
    ProgressEndpoint,
    RunConfig,
    ValidationSplit,
)
from finetune_api.status import Commit, ResolvedData, ResolvedModel
from finetune_api.training import ForgettingSpec
from finetune_core.plan.effective import Resolved
from finetune_core.plan.files import CA_FILE
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.nodes import nodes_input
from finetune_core.plan.volumes import output_paths, path_of, template_uri
from finetune_core.settings import OperatorSettings

CONFIG = "/etc/finetune"
TOKEN_PATH = "/var/run/finetune/token"  # noqa: S105 — where the kubelet puts it, not a secret
METRICS_PORT = 9100


def run_config(job: FineTuneJob, resolved: Resolved, attempt: int, settings: OperatorSettings) -> RunConfig:
    """The RunConfig of an attempt of a job without spec.command."""
    spec, training = job.spec, job.spec.resolved_training()
    assert spec.model and spec.dataset and spec.objective and training  # the spec's rules hold
    return RunConfig(
        job=identity(job, attempt),
        model=model_input(job, spec.model),
        dataset=dataset_input(job),
        objective=spec.objective,
        training=training,
        gate=spec.gate,
        output=output_paths(job, resolved.output_uri),
        devices=devices(resolved, settings).model_copy(update={"max_micro_batch_size": _that_fits(job)}),
        nodes=nodes_input(job, resolved, attempt),
        progress=progress_endpoint(settings),
        metrics_port=METRICS_PORT,
        termination_log=TERMINATION_LOG,
    )


def _that_fits(job: FineTuneJob) -> int | None:
    """The micro-batch size that the operator set for this attempt. A checkpoint does not depend on it."""
    return job.status.attempts[-1].micro_batch_size if job.status.attempts else None


def identity(job: FineTuneJob, attempt: int) -> JobIdentity:
    """The job and the attempt, as its pod knows them."""
    return JobIdentity(namespace=job.namespace, name=job.name, uid=job.uid, attempt=attempt)


def devices(resolved: Resolved, settings: OperatorSettings) -> Devices:
    """The devices of a pod with these resources."""
    return Devices(gpus=resolved.resources.gpus_per_node or 0, simulated=settings.simulate_gpus)


def model_input(job: FineTuneJob, spec: ModelSpec) -> ModelInput:
    """A model as a pod of the job finds it."""
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
        **{name: getattr(spec, name) for name in ModelTechniques.model_fields},
    )


def _revision(job: FineTuneJob, part: str) -> Commit | None:
    """The commit that an earlier attempt reported for a part of status.resolved."""
    found: ResolvedModel | ResolvedData | None = getattr(job.status.resolved, part, None)
    return found.revision if found else None


def progress_endpoint(settings: OperatorSettings) -> ProgressEndpoint | None:
    """Where the pod reports its progress; None if the administrator set no address."""
    if not settings.progress_url:
        return None
    return ProgressEndpoint(
        url=f"{settings.progress_url}/v1/progress", token_path=TOKEN_PATH, ca_path=f"{CONFIG}/{CA_FILE}"
    )


def dataset_input(job: FineTuneJob) -> DatasetInput:
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
        forgetting=[_data(other.uri, None, None) for other in _forgetting(job)],
        columns=spec.columns,
        rows=spec.rows,
        chat_template_path=path_of(template) if (template := template_uri(job)) else None,
        preprocessing=spec.preprocessing,
        max_invalid_rows=spec.max_invalid_rows,
    )


def _forgetting(job: FineTuneJob) -> list[ForgettingSpec]:
    return job.spec.training.evaluation.forgetting if job.spec.training else []


def _data(uri: str, data_format: DataFormat | None, revision: Commit | None) -> DataInput:
    return DataInput(path=path_of(uri), uri=uri, revision=revision, format=data_format)


def _split(validation: ValidationSpec) -> ValidationSplit:
    return ValidationSplit(
        fraction=validation.fraction or 0.1,
        stratify=validation.stratify,
        group_by=validation.group_by,
        seed=validation.seed,
    )
