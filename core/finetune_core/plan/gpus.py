"""What the labels of nodes say about the GPUs that a job may get: those of NVIDIA's GPU feature discovery. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.resources import Toleration, TolerationOperator
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.settings import OperatorSettings
from finetune_core.wire import at, items, text

_MEBIBYTE = 2**20
_DRIVEN_AWAY = ("NoSchedule", "NoExecute")
_STATES = "node.kubernetes.io/"
"""Prefix of taints that show a passing state of a node, such as a cordoned one."""


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs of all nodes that a job may run on."""

    nodes: int
    memory: int
    """Of the largest one, in bytes."""
    least_memory: int
    product: str | None
    """None where there are several."""
    capability: int | None = None
    """Major number of the CUDA compute capability of the newest one; None where a label is missing."""
    least_capability: int | None = None


def selector_of(job: FineTuneJob, resolved: Resolved, settings: OperatorSettings) -> str | None:
    """A selector of labels for the nodes that have the job's GPUs and show their memory; None without GPUs.

    The labels are named after the resource, so also those of nvidia.com/mig-1g.10gb are found.
    """
    if not resolved.resources.gpus_per_node:
        return None
    asked = job.spec.scheduling
    wanted = ((asked and asked.node_selector) or {}) | settings.node_selector
    return ",".join([_memory(resolved, settings), *(f"{key}={value}" for key, value in wanted.items())])


def gpus_of(
    nodes: Iterable[Mapping[str, Any]], job: FineTuneJob, resolved: Resolved, settings: OperatorSettings
) -> Gpus | None:
    """What these nodes have, as far as the job tolerates their taints and they have as many GPUs as it wants.

    None where no node shows them.
    """
    asked, resource = job.spec.scheduling, _resource(resolved, settings)
    tolerations = [*settings.tolerations, *((asked and asked.tolerations) or [])]
    fitting = [
        labels
        for node in nodes
        if (labels := at(node, "metadata", "labels") or {})
        and _tolerated(node, tolerations, resource)
        and _number(labels.get(f"{resource}.count"), 2**31) >= (resolved.resources.gpus_per_node or 0)
    ]
    sizes = [size for labels in fitting if (size := _number(labels.get(_memory(resolved, settings)), 0))]
    if not sizes:
        return None
    products = {labels.get(f"{resource}.product") for labels in fitting}
    (product,) = products if len(products) == 1 else (None,)
    majors = [_number(labels.get(f"{resource}.compute.major"), 0) for labels in fitting]
    known = all(majors)
    return Gpus(
        nodes=len(sizes),
        memory=max(sizes) * _MEBIBYTE,
        least_memory=min(sizes) * _MEBIBYTE,
        product=product,
        capability=max(majors) if known else None,
        least_capability=min(majors) if known else None,
    )


def _resource(resolved: Resolved, settings: OperatorSettings) -> str:
    return resolved.resources.gpu_resource or settings.gpu_resource


def _memory(resolved: Resolved, settings: OperatorSettings) -> str:
    return f"{_resource(resolved, settings)}.memory"


def _number(value: Any, otherwise: int) -> int:
    return int(value) if isinstance(value, str) and value.isdecimal() else otherwise


def _tolerated(node: Mapping[str, Any], tolerations: list[Toleration], resource: str) -> bool:
    """A taint with the name of the resource is tolerated for whoever asks for it (ExtendedResourceToleration)."""
    return all(
        any(_tolerates(one, taint) for one in tolerations)
        for taint in items(node, "spec", "taints")
        if text(taint, "effect") in _DRIVEN_AWAY
        and not (text(taint, "key") or "").startswith((_STATES, resource))
    )


def _tolerates(one: Toleration, taint: Mapping[str, Any]) -> bool:
    if one.effect is not None and one.effect != text(taint, "effect"):
        return False
    if one.operator is TolerationOperator.EXISTS:
        return one.key in (None, text(taint, "key"))
    return one.key == text(taint, "key") and (one.value or "") == (text(taint, "value") or "")
