"""What an administrator decides for all jobs: the values that every plan and decision is based on."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from finetune_api.base import Quantity
from finetune_api.finetunejob import Preflight
from finetune_api.resources import Quantities, Toleration


class PullPolicy(StrEnum):
    """When the kubelet pulls an image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class OperatorSettings(BaseModel):
    """What an administrator decides for all jobs."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )

    namespaces: list[str] = []
    """Namespaces to watch, as a JSON list; empty for all."""
    trainer_image: str
    """Image of the trainer."""
    script_image: str | None = None
    """Image of jobs with spec.command and without spec.image; the trainer image when not set."""
    image_pull_policy: PullPolicy = PullPolicy.IF_NOT_PRESENT
    """When trainer images are pulled."""
    allowed_images: list[str] = []
    """Shell patterns of images that spec.image may name, as a JSON list; trainer and script image always may."""
    allowed_priority_classes: list[str] = ["*"]
    """Shell patterns of PriorityClasses that jobs may name, as a JSON list."""
    allowed_tolerations: list[str] = ["*"]
    """Shell patterns of the keys of taints that jobs may tolerate, as a JSON list."""
    output_size: str = "10Gi"
    """Size of the claim that is made for a job without spec.output.uri."""
    output_storage_class: str | None = None
    """Its storage class; the cluster's default when not set."""
    output_access_mode: str | None = None
    """Its access mode; when not set, ReadWriteMany for a job on several nodes, else ReadWriteOnce."""
    gpus_per_node: int = 1
    """GPUs of a pod when the job does not say."""
    gpu_resource: str = "nvidia.com/gpu"
    """Extended resource that stands for a GPU."""
    gpu_memory: Quantity | None = None
    """Memory of each GPU, where all of them have as much. Preflight compares its estimate with it."""
    preflight: Preflight = Preflight.REQUIRED
    """Whether jobs with GPUs are checked on a CPU first when the job does not say."""
    simulate_gpus: bool = False
    """The cluster only simulates GPUs: train on the CPU and report it. For the embedded cluster."""
    requests: Quantities = {}
    """Requests of training pods when the job does not say, as JSON."""
    limits: Quantities = {}
    """Limits of training pods when the job does not say, as JSON."""
    node_selector: dict[str, str] = {}
    """Node selector of every training pod, as JSON; the job's own is added and changes none of it."""
    tolerations: list[Toleration] = []
    """Tolerations of every training pod, as JSON; the job's own are added."""
    image_pull_secrets: list[str] = []
    """Pull secrets of every training pod, as a JSON list; they must exist in the job's namespace."""
    kueue: bool = True
    """Read the Workload of a job that waits in a queue of Kueue, to say why it waits."""
    priority_boost: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Points by which Kueue's priority of a running job rises at most, one per unsaved GPU-minute; 0 for never."""
    runtime_class: str | None = None
    """Runtime class of training pods."""
    hub_endpoint: str | None = None
    """Address of a mirror of the Hugging Face Hub, for hf://; the Hub itself when not set."""
    hub_offline: bool = False
    """Pods never contact the Hub."""
    pod_labels: dict[str, str] = {}
    """More labels for training pods, as JSON."""
    pod_annotations: dict[str, str] = {}
    """More annotations of training pods, as JSON."""
    platform_ids: bool = False
    """The platform chooses the user and group IDs of pods, as OpenShift does; the three IDs below do not count."""
    run_as_user: int = 65532
    """uid of training pods."""
    run_as_group: int = 65532
    """gid of training pods."""
    fs_group: int = 65532
    """Group that owns the volumes of training pods."""
    http_port: int = 8080
    """Port of /metrics, /healthz and /readyz."""
    progress_port: int = 8443
    """Port on which trainers report progress over TLS; 0 turns it off."""
    progress_url: str | None = None
    """Address under which training pods reach the progress port; without it progress is not reported."""
    progress_audience: str = "finetune-operator"
    """Audience of the tokens that trainers report with."""
    tls_secret: str | None = None
    """NAMESPACE/NAME of the Secret that keeps the progress endpoint's certificate over restarts."""
    tls_folder: str | None = None
    """Folder that keeps it instead, for an operator outside of the cluster."""
    lease: Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")] | None = None
    """NAMESPACE/NAME of the Lease for leader election; without it this process always leads."""
    identity: str | None = None
    """Name in the Lease: of this process only, the same after a restart of its container; a new one when not set."""
    address: str | None = None
    """IP address at which standbys reach this process's progress port, to forward progress to it when it leads."""
    predecessors: str | None = None
    """Label selector of pods beside the Lease that run a version without leader election: none leads beside them."""
    progress_interval: Annotated[float, Field(ge=0.1)] = 10.0
    """Seconds between two status writes that carry progress only."""
    retry_backoff: Annotated[float, Field(ge=0)] = 10.0
    """Seconds before the first retry; doubled for each further one, up to five minutes."""
    node_lost_seconds: Annotated[int, Field(ge=30, le=86_400)] = 300
    """Seconds for which a node may be unreachable before its attempts are taken for lost and begin elsewhere."""
    startup_deadline: Annotated[int, Field(ge=30)] = 1800
    """Seconds that a pod may wait for its image, a Secret or a volume when the job does not say."""
    resync_interval: Annotated[float, Field(ge=1)] = 600.0
    """Seconds between two full comparisons of the cache with the API server."""
    workers: Annotated[int, Field(ge=1)] = 16
    """Jobs that are reconciled at the same time."""
    api_qps: Annotated[float, Field(gt=0)] = 500.0
    """Requests per second to the API server."""
    api_burst: Annotated[int, Field(ge=1)] = 1000
    """Requests that may be sent at once."""
    api_connections: Annotated[int, Field(ge=1)] = 32
    """Connections to the API server."""
    log_format: Literal["plain", "json"] = "plain"
    """plain or json."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Python's level names."""
