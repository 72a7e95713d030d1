"""`spec.resources` and `spec.scheduling`: resources of the training pods, and where they may run."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.base import ApiModel, Name, Quantity

LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=317)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
Quantities = Annotated[dict[Annotated[str, Field(max_length=128)], Quantity], Field(max_length=16)]


class ResourcesSpec(ApiModel):
    """Compute resources of the training pods."""

    nodes: Annotated[int, Field(ge=1, le=1)] | None = None
    """Number of pods that train together. Only 1 is supported for now. Default: 1."""
    gpus_per_node: Annotated[int, Field(ge=0, le=16)] | None = None
    """GPUs per pod, with one training process per GPU. 0 trains on the CPU. Default: set by the administrator, 1 on GPU clusters."""
    gpu_resource: (
        Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", max_length=128)] | None
    ) = None
    """Name of the extended resource for GPUs, for example amd.com/gpu. Default: set by the administrator, usually nvidia.com/gpu."""
    requests: Quantities | None = None
    """Resource requests of the pod, for example {cpu: "4", memory: 16Gi}."""
    limits: Quantities | None = None
    """Resource limits of the pod, for example {memory: 16Gi}."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, for example 1Gi."""


class TolerationOperator(StrEnum):
    """How a toleration is matched with a taint."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """Effect of a taint."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(ApiModel):
    """A toleration, as in a Pod."""

    key: LabelKey | None = None
    """Taint key that the toleration applies to. Empty with operator Exists matches all taints."""
    operator: TolerationOperator | None = None
    """Exists or Equal. Equal also compares the value."""
    value: LabelValue | None = None
    """Taint value to match, with operator Equal."""
    effect: TaintEffect | None = None
    """Taint effect to match: NoSchedule, PreferNoSchedule or NoExecute. Empty matches all effects."""
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """Effect NoExecute only: seconds that the pod stays on the node after the taint is added, before it is evicted."""


class SchedulingSpec(ApiModel):
    """Where the pods may run."""

    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] | None = None
    """Labels that a node must have, for example {gpu: a100}. Labels that the administrator requires cannot be overridden."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = None
    """Tolerations of the pods, in addition to those that the administrator set."""
    priority_class_name: Name | None = None
    """Name of the pods' PriorityClass."""
    image_pull_secrets: Annotated[list[Name], Field(max_length=8)] | None = None
    """Names of Secrets in the job's namespace with image registry credentials."""
