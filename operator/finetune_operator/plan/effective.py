"""What the defaults become: the spec's own values, else the administrator's."""

from finetune_api.resources import ResourcesSpec
from finetune_operator.plan.finetunejob import FineTuneJob
from finetune_operator.plan.naming import output_claim_name
from finetune_operator.settings import OperatorSettings

MODEL_FOLDER = "model"


def resources_of(job: FineTuneJob, settings: OperatorSettings) -> ResourcesSpec:
    """`spec.resources` with every default written out."""
    asked = job.spec.resources or ResourcesSpec()
    return ResourcesSpec(
        nodes=asked.nodes or 1,
        gpus_per_node=settings.gpus_per_node if asked.gpus_per_node is None else asked.gpus_per_node,
        gpu_resource=asked.gpu_resource or settings.gpu_resource,
        requests=settings.requests | (asked.requests or {}),
        limits=settings.limits | (asked.limits or {}),
        shared_memory=asked.shared_memory,
    )


def output_uri_of(job: FineTuneJob) -> str:
    """The model's folder."""
    if job.spec.output and job.spec.output.uri:
        return job.spec.output.uri
    return f"pvc://{output_claim_name(job)}/{MODEL_FOLDER}"


def image_of(job: FineTuneJob, settings: OperatorSettings) -> str:
    """The trainer image."""
    return job.spec.image or settings.trainer_image
