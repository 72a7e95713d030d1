"""`spec.resources` and `spec.scheduling`: resources of the training pods, and where they may run."""

import re
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from finetune_api.base import ApiModel, Name, Quantity, Rule, Unique

LARGEST_NODES = 64
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_PLAIN_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_QUALIFIED = rf"^({_DOMAIN}/)?{_PLAIN_NAME}$"
_EXTENDED = rf"^{_DOMAIN}/{_PLAIN_NAME}$"
_GPU = "/gpu$|/gpu[.]|/mig-|^gpu[.]"
"""Names of GPUs, GPUs that are shared, and their partitions, such as nvidia.com/mig-1g.5gb and gpu.intel.com/i915."""
_DEVICE = (
    "(?i)/(v?tpu|gaudi[0-9]*|neuron(core|device)?|ascend[a-z0-9]+|[nxh]pu|mlu[0-9]*|gcu|dcu(num)?|[psv]gpus?"
    "|v?gpu-(number|count)|[cdqst]px_nps[0-9])$"
)
"""Names of other devices to compute on, and of AMD's partitions, as whole units."""
ACCELERATOR = (
    "(?i)(^|[/._-])[psv]?(gpu|tpu|npu|xpu|hpu|ppu|gcu|mlu|dcu|cuda|gaudi|neuron|ascend|qaic)"
    "|(habana|cambricon|rebellions|rbln|furiosa|metax-tech|mthreads|enflame|hygon|iluvatar|kunlunxin|birentech"
    "|graphcore|tenstorrent)[.][a-z]+/|_nps[0-9]$"
)
"""The same, and shares of one, such as nvidia.com/gpumem: what a run on the CPU has no use for. Cards of a network, such as
rdma/hca and vpc.amazonaws.com/efa, have other names."""
_PLAIN_RESOURCE = "^(cpu|memory|ephemeral-storage|hugepages-[1-9][0-9]*(Ki|Mi|Gi))$"
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=317)]
LabelValue = Annotated[
    str, StringConstraints(max_length=63, pattern="^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
]
TaintKey = Annotated[str, StringConstraints(min_length=1, max_length=317, pattern=_QUALIFIED)]
ObjectLabel = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=f"^{_LABEL}$")]
"""A name that is a DNS label."""
QueueName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=f"^{_DOMAIN}$")]
"""The name of an object that is also the value of a label."""
Quantities = Annotated[dict[Annotated[str, Field(max_length=128)], Quantity], Field(max_length=16)]
_SUFFIXES = {"m": Decimal("0.001"), "": Decimal(1)} | {
    f"{letter}{binary}": Decimal(1024 if binary else 1000) ** power
    for binary in ("", "i")
    for power, letter in ((1, "K" if binary else "k"), (2, "M"), (3, "G"), (4, "T"), (5, "P"))
}


def amount_of(quantity: str) -> Decimal:
    """The number that a quantity stands for."""
    number = quantity.rstrip("mkKMGTPi")
    return Decimal(number) * _SUFFIXES[quantity[len(number) :]]


def _of_both(spec: Any) -> list[tuple[str, str]]:
    """Name and quantity of all requests and limits."""
    return [*(spec.requests or {}).items(), *(spec.limits or {}).items()]


def _in_both(condition: str) -> str:
    """A condition on every name `k` of the two maps, in CEL; {held} stands for the map."""
    return " && ".join(
        f"(!has({held}) || {held}.all(k, {condition.replace('{held}', held)}))"
        for held in ("self.requests", "self.limits")
    )


def _names_are_known() -> Rule:
    return Rule(
        _in_both(
            f"k.matches('{_PLAIN_RESOURCE}')"
            f" || (k.matches(r'{_EXTENDED}') && !k.contains('kubernetes.io/') && !k.startsWith('requests.'))"
        ),
        "a name in requests and limits is cpu, memory, ephemeral-storage, hugepages-2Mi or alike, or an extended"
        " resource with its domain, such as rdma/hca",
        lambda s: all(
            re.fullmatch(_PLAIN_RESOURCE, name)
            or (
                re.fullmatch(_EXTENDED, name)
                and "kubernetes.io/" not in name
                and not name.startswith("requests.")
            )
            for name, _ in _of_both(s)
        ),
    )


def _gpus_have_fields() -> Rule:
    return Rule(
        _in_both(f"!k.matches('{_GPU}') && !(has(self.gpuResource) && k == self.gpuResource)"),
        "GPUs and parts of them are not written in requests or limits; write gpusPerNode: 1, and their name in"
        " gpuResource where it is not the administrator's",
        lambda s: not any(re.search(_GPU, name) or name == s.gpu_resource for name, _ in _of_both(s)),
    )


def _accelerators_are_used() -> Rule:
    on_cpu = "has(self.gpusPerNode) && self.gpusPerNode == 0 && !has(self.claims)"
    return Rule(
        _in_both(
            f"string({{held}}[k]) == '0'"
            f" || !(k.matches('{_DEVICE}') || {on_cpu} && k.matches('{ACCELERATOR}'))"
        ),
        "accelerators in requests and limits are held while nothing computes on them; write gpusPerNode: 1 with their name"
        " in gpuResource, or remove them",
        lambda s: (
            not any(
                quantity != "0"
                and (
                    re.search(_DEVICE, name)
                    or (s.gpus_per_node == 0 and s.claims is None and re.search(ACCELERATOR, name))
                )
                for name, quantity in _of_both(s)
            )
        ),
    )


def _extended_are_whole() -> Rule:
    return Rule(
        _in_both("!k.contains('/') || string({held}[k]).matches('^[0-9]+$')"),
        "an extended resource is counted in whole units; write for example rdma/hca: 1",
        lambda s: all("/" not in name or quantity.isdecimal() for name, quantity in _of_both(s)),
    )


def _requests_fit_limits() -> Rule:
    compared = "quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k])))"
    return Rule(
        f"!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || {compared} <= 0)",
        "a request is larger than the limit of the same resource; lower requests or raise limits",
        lambda s: all(
            amount_of(quantity) <= amount_of(s.limits[name])
            for name, quantity in (s.requests or {}).items()
            if name in (s.limits or {})
        ),
    )


LEAST_BYTES = 2**20
_IN_BYTES = ("memory", "ephemeral-storage")


def _bytes_are_meant() -> Rule:
    compared = "quantity(string({held}[k])).compareTo(quantity('%s'))"
    return Rule(
        _in_both(
            f"!(k in ['memory', 'ephemeral-storage']) || {compared % '1Mi'} >= 0 || {compared % '0'} == 0"
        ),
        "memory and ephemeral-storage are counted in bytes: 8 is 8 bytes, and 512m half a byte; write 8Gi or 512Mi",
        lambda s: all(
            name not in _IN_BYTES or amount_of(quantity) == 0 or amount_of(quantity) >= LEAST_BYTES
            for name, quantity in _of_both(s)
        ),
    )


def _not_overcommitted(name: str) -> bool:
    return "/" in name or name.startswith("hugepages-")


def _the_same_in_both() -> Rule:
    compared = "quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k])))"
    return Rule(
        "!has(self.requests) || self.requests.all(k, !(k.contains('/') || k.startsWith('hugepages-'))"
        f" || (has(self.limits) && k in self.limits && {compared} == 0))",
        "extended resources and hugepages cannot be overcommitted; write them in limits alone",
        lambda s: all(
            name in (s.limits or {}) and amount_of(s.limits[name]) == amount_of(quantity)
            for name, quantity in (s.requests or {}).items()
            if _not_overcommitted(name)
        ),
    )


def _hugepages_have_company() -> Rule:
    huge = "k.startsWith('hugepages-')"
    plain = " || ".join(
        f"(has(self.{m}) && ('cpu' in self.{m} || 'memory' in self.{m}))" for m in ("requests", "limits")
    )
    return Rule(
        f"({_in_both(f'!{huge}')}) || {plain}",
        "hugepages need cpu or memory beside them, for example memory: 16Gi",
        lambda s: (
            not any(name.startswith("hugepages-") for name, _ in _of_both(s))
            or any(name in ("cpu", "memory") for name, _ in _of_both(s))
        ),
    )


class ResourceClaim(ApiModel):
    """Devices of dynamic resource allocation (DRA)."""

    name: ObjectLabel
    """Name of the claim within the pod, for example gpus."""
    resource_claim_template_name: Name
    """Name of the ResourceClaimTemplate in the job's namespace from which each pod gets its own ResourceClaim."""


class ResourcesSpec(ApiModel):
    """Compute resources of the training pods."""

    stored_may_break = True
    rules = (
        _names_are_known(),
        _gpus_have_fields(),
        _accelerators_are_used(),
        _extended_are_whole(),
        _requests_fit_limits(),
        _the_same_in_both(),
        _hugepages_have_company(),
        _bytes_are_meant(),
        Rule(
            "!has(self.sharedMemory) || quantity(string(self.sharedMemory)).compareTo(quantity('1Mi')) >= 0",
            "sharedMemory is counted in bytes, and less than 1Mi is asked for; write for example 1Gi",
            lambda s: s.shared_memory is None or amount_of(s.shared_memory) >= LEAST_BYTES,
            ".sharedMemory",
        ),
    )
    nodes: Annotated[int, Field(ge=1, le=LARGEST_NODES)] | None = None
    """Number of pods that train together, each with gpusPerNode GPUs: one process per GPU, or one per pod on a CPU. More than 1 needs claims that several nodes mount (ReadWriteMany). Default: 1."""
    gpus_per_node: Annotated[int, Field(ge=0, le=16)] | None = None
    """GPUs per pod, with one training process per GPU. 0 trains on the CPU. Default: the devices of claims where there are claims, else set by the administrator, 1 on GPU clusters."""
    gpu_resource: Annotated[str, StringConstraints(pattern=_EXTENDED, max_length=128)] | None = None
    """Name of the extended resource for GPUs, for example amd.com/gpu. The built-in trainer computes on GPUs of NVIDIA and AMD; other accelerators need your own image. Default: set by the administrator, usually nvidia.com/gpu."""
    requests: Quantities | None = None
    """Resource requests of the pod, for example {cpu: "4", memory: 16Gi}. A request must not exceed the limit."""
    limits: Quantities | None = None
    """Resource limits of the pod, for example {memory: 16Gi}. GPUs and other accelerators are set by gpusPerNode and gpuResource."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, for example 1Gi."""
    claims: Annotated[list[ResourceClaim], Field(max_length=8), Unique("name")] | None = None
    """Devices that a driver allocates (DRA, resource.k8s.io/v1). Without gpusPerNode they are the GPUs: one training process per device that the templates ask for; where their device classes differ, those with gpu in their name count. With gpusPerNode the GPUs are extended resources and the claims come in addition, for example network devices. With gpusPerNode: 0 the templates must not ask for GPUs, which would be held while the job trains on the CPU."""


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

    rules = (
        Rule(
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            "a toleration without key tolerates every taint; write operator: Exists, or give the key",
            lambda s: s.key is not None or s.operator is TolerationOperator.EXISTS,
        ),
        Rule(
            "!has(self.value) || self.value == '' || !has(self.operator) || self.operator != 'Exists'",
            "operator Exists takes no value; remove value, or write operator: Equal",
            lambda s: not s.value or s.operator is not TolerationOperator.EXISTS,
            ".value",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds belongs to the effect NoExecute; write effect: NoExecute, or remove it",
            lambda s: s.toleration_seconds is None or s.effect is TaintEffect.NO_EXECUTE,
            ".tolerationSeconds",
        ),
    )
    key: TaintKey | None = None
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

    rules = (
        Rule(
            f"!has(self.nodeSelector) || self.nodeSelector.all(k, k.matches(r'{_QUALIFIED}'))",
            "a key of nodeSelector is a label's name: letters, digits, '-', '_' and '.', after a domain and '/' where it"
            " has one, such as topology.kubernetes.io/zone",
            lambda s: all(re.fullmatch(_QUALIFIED, key) for key in s.node_selector or {}),
            ".nodeSelector",
        ),
    )
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] | None = None
    """Labels that a node must have, for example {gpu: a100}. Labels that the administrator requires cannot be overridden."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = None
    """Tolerations of the pods, in addition to those that the administrator set."""
    topology_key: (
        Annotated[str, StringConstraints(min_length=1, max_length=317, pattern=_QUALIFIED)] | None
    ) = None
    """With resources.nodes of 2 or more: label of the nodes whose value is the same for all pods of the job, for example topology.kubernetes.io/zone, or kubernetes.io/hostname for one machine."""
    priority_class_name: Name | None = None
    """Name of the pods' PriorityClass. Kueue orders its queue by it as well."""
    queue: QueueName | None = None
    """Name of the Kueue LocalQueue that admits the job, for example team-a. The job waits as Queued until its quota is free. A job that Kueue preempts saves a checkpoint, and resumes from it when it is admitted again."""
    scheduler_name: Name | None = None
    """Name of the scheduler of the pods. Default: that of the cluster."""
    image_pull_secrets: Annotated[list[Name], Field(max_length=8)] | None = None
    """Names of Secrets in the job's namespace with image registry credentials."""
