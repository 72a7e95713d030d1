"""`spec.resources` and `spec.scheduling`: what the pods get, and where they may run."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.base import ApiModel, Name, Quantity

LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=317)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
Quantities = Annotated[dict[Annotated[str, Field(max_length=128)], Quantity], Field(max_length=16)]


class ResourcesSpec(ApiModel):
    """What the pods get."""

    nodes: Annotated[int, Field(ge=1, le=1)] | None = None
    """Pods that train together. Only 1 for now, which is also the default."""
    gpus_per_node: Annotated[int, Field(ge=0, le=16)] | None = None
    """GPUs of every pod, each with a process of its own; 0 trains on the CPU. Default: as the administrator set it, 1 on GPU clusters."""
    gpu_resource: (
        Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", max_length=128)] | None
    ) = None
    """Extended resource that stands for a GPU. Default: as the administrator set it, nvidia.com/gpu."""
    requests: Quantities | None = None
    """Requested resources of the pod, for example {cpu: "4", memory: 16Gi}."""
    limits: Quantities | None = None
    """Limits of the pod, for example {memory: 16Gi}."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, for example 1Gi."""


class TolerationOperator(StrEnum):
    """How a toleration compares with a taint."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(ApiModel):
    """A taint that the pods tolerate, as in a Pod."""

    key: LabelKey | None = None
    """Key of the taint; absent with operator Exists: every taint."""
    operator: TolerationOperator | None = None
    """Exists or Equal."""
    value: LabelValue | None = None
    """Value of the taint, with operator Equal."""
    effect: TaintEffect | None = None
    """NoSchedule, PreferNoSchedule or NoExecute; absent: every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """With NoExecute: how long the pod stays after the taint came."""


class SchedulingSpec(ApiModel):
    """Where the pods may run."""

    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] | None = None
    """Labels that a node must have, for example {gpu: a100}. A label that the administrator asks for stays as it is."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = None
    """Taints that the pods tolerate."""
    priority_class_name: Name | None = None
    """PriorityClass of the pods."""
    image_pull_secrets: Annotated[list[Name], Field(max_length=8)] | None = None
    """Names of Secrets of this namespace with registry credentials."""
