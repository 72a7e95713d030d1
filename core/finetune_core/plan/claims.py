"""The devices that a ResourceClaimTemplate (resource.k8s.io/v1) asks for. Pure."""

import re
from typing import Any, NamedTuple

from finetune_api.resources import ACCELERATOR, ResourcesSpec
from finetune_core.wire import at, items, number, text

_COMPUTES = rf"{ACCELERATOR}|(^|[.-])mig[.-]"
"""Names of classes of devices to compute on, such as gpu.nvidia.com, and of parts of them, such as mig.nvidia.com."""


class Devices(NamedTuple):
    """How many devices each pod gets from a template, or why that is not known."""

    number: int = 0
    problem: str | None = None


class _Request(NamedTuple):
    device_class: str
    devices: int


def gpus_are_claimed(resources: ResourcesSpec | None) -> bool:
    """Whether the GPUs of a job are the devices of its claims, and no extended resource."""
    return bool(resources and resources.claims and resources.gpus_per_node is None)


def templates_of(resources: ResourcesSpec | None) -> list[str]:
    """The templates that have to be known before an attempt.

    They say how many GPUs there are or, with gpusPerNode: 0, that there are some which would be held for nothing.
    """
    if resources is None or resources.gpus_per_node:
        return []
    return [claim.resource_claim_template_name for claim in resources.claims or []]


def accelerator_in(template: Any) -> str | None:
    """The first class of devices to compute on that a template may get devices of; None for none."""
    classes = (
        text(option, "deviceClassName") or ""
        for request in _requests(template)
        for option in _options(request)
    )
    return next((name for name in classes if re.search(_COMPUTES, name)), None)


def devices_of(template: Any) -> Devices:
    """The devices of a template; where their classes differ, those of classes with gpu in their name."""
    found = []
    for request in _requests(template):
        name, options = text(request, "name"), _options(request)
        counts = {_count(option) for option in options}
        if None in counts:
            return Devices(
                problem=f"request {name} takes all devices of a node, so that nobody knows how many; write"
                " allocationMode: ExactCount and count"
            )
        if len(counts) > 1:
            return Devices(
                problem=f"request {name} takes {', '.join(map(str, sorted(filter(None, counts))))} devices,"
                " whichever are available; give all options the same count"
            )
        found.append(_Request(text(options[0], "deviceClassName") or "", counts.pop() or 0))
    return Devices(sum(request.devices for request in _gpus(found)))


def _requests(template: Any) -> list[Any]:
    return items(template, "spec", "spec", "devices", "requests")


def _options(request: Any) -> list[Any]:
    """What a request takes: the first of these that is available."""
    return items(request, "firstAvailable") or [at(request, "exactly")]


def _count(option: Any) -> int | None:
    if at(option, "allocationMode") == "All":
        return None
    return int(number(option, "count") or 1)


def _gpus(requests: list[_Request]) -> list[_Request]:
    if len({request.device_class for request in requests}) < 2:
        return requests
    return [request for request in requests if "gpu" in request.device_class] or requests
