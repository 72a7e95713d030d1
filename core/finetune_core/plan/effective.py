"""What the defaults become: the spec's own values, else the administrator's."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.base import Rule
from finetune_api.resources import ResourcesSpec
from finetune_core.plan.claims import gpus_are_claimed
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import output_claim_name
from finetune_core.settings import OperatorSettings

MODEL_FOLDER = "model"


@dataclass(frozen=True)
class Resolved:
    """What a spec leaves to the administrator, written out."""

    resources: ResourcesSpec
    output_uri: str
    image: str


def resolve(job: FineTuneJob, settings: OperatorSettings) -> Resolved:
    """The spec's own values, else the administrator's."""
    return Resolved(_resources(job, settings), _output_uri(job), _image(job, settings))


def _resources(job: FineTuneJob, settings: OperatorSettings) -> ResourcesSpec:
    """`spec.resources` with every default written out."""
    asked = job.spec.resources or ResourcesSpec()
    claimed = gpus_are_claimed(asked)
    gpus = settings.gpus_per_node if asked.gpus_per_node is None else asked.gpus_per_node
    return ResourcesSpec.model_construct(  # `conflict_of` checks whether the two go together
        nodes=asked.nodes or 1,
        gpus_per_node=_claimed_devices(job) if claimed else gpus,
        gpu_resource=None if claimed else asked.gpu_resource or settings.gpu_resource,
        requests=settings.requests | (asked.requests or {}),
        limits=settings.limits | (asked.limits or {}),
        shared_memory=asked.shared_memory,
        claims=asked.claims,
    )


def _claimed_devices(job: FineTuneJob) -> int:
    """The devices of the job's claims, which the status has with each attempt; 0 before the first."""
    known = job.status.effective.resources if job.status.effective else None
    return (known and known.gpus_per_node) or 0


def conflict_of(job: FineTuneJob, resources: ResourcesSpec, settings: OperatorSettings) -> str | None:
    """What is wrong with a job's resources: of a job stored before a rule alone, else beside the administrator's."""
    if job.spec.resources and (alone := _broken(job.spec.resources)):
        return f"spec.resources: {alone.message}"
    broken = _broken(resources)
    if broken is None:
        return None
    defaults = f"requests {_written(settings.requests)} and limits {_written(settings.limits)}"
    return f"spec.resources does not fit the administrator's defaults, {defaults}: {broken.message}"


def _broken(resources: ResourcesSpec) -> Rule | None:
    return next((rule for rule in ResourcesSpec.rules if rule.holds and not rule.holds(resources)), None)


def _written(quantities: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name}: {quantity}" for name, quantity in quantities.items()) + "}"


def _output_uri(job: FineTuneJob) -> str:
    """The model's folder."""
    if job.spec.output and job.spec.output.uri:
        return job.spec.output.uri
    return f"pvc://{output_claim_name(job)}/{MODEL_FOLDER}"


def _image(job: FineTuneJob, settings: OperatorSettings) -> str:
    """The image that the job names, else the trainer image or, for a job with a command, the script image."""
    if job.spec.image:
        return job.spec.image
    return (job.spec.command and settings.script_image) or settings.trainer_image
