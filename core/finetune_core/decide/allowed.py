"""Limits of the administrator on what a job may request, except its image. Pure."""

from fnmatch import fnmatchcase

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.resources import Toleration
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.hub import administrators_environment
from finetune_core.plan.kueue import PRIORITY
from finetune_core.settings import OperatorSettings


def why_not_allowed(job: FineTuneJob, settings: OperatorSettings) -> str | None:
    """The first field that asks for what the administrator does not allow, with the remedy; None for none."""
    spec = job.spec
    return (
        _priority_class(spec, settings.allowed_priority_classes)
        or _priority_in_queue(job.kueue_labels.get(PRIORITY), settings.allowed_priority_classes)
        or _tolerations(spec, settings.allowed_tolerations)
        or _node_selector(spec, settings.node_selector)
        or _environment(spec, settings)
    )


def _priority_class(spec: FineTuneJobSpec, allowed: list[str]) -> str | None:
    name = spec.scheduling.priority_class_name if spec.scheduling else None
    if name is None or _matches(name, allowed):
        return None
    return (
        f"spec.scheduling.priorityClassName: the administrator does not allow {name}; {_remedy(allowed)},"
        " while the job is suspended"
    )


def _priority_in_queue(name: str | None, allowed: list[str]) -> str | None:
    """A WorkloadPriorityClass preempts others as a PriorityClass does."""
    if not name or _matches(name, allowed):
        return None
    return f"metadata.labels: {PRIORITY}: the administrator does not allow {name}; {_remedy(allowed)}"


def _tolerations(spec: FineTuneJobSpec, allowed: list[str]) -> str | None:
    asked = (spec.scheduling.tolerations if spec.scheduling else None) or []
    refused = next((one for one in enumerate(asked) if not _tolerated(one[1], allowed)), None)
    if refused is None:
        return None
    index, toleration = refused
    what = f"the taint {toleration.key}" if toleration.key else "every taint"
    return (
        f"spec.scheduling.tolerations[{index}]: the administrator does not allow pods that tolerate {what};"
        f" {_remedy(allowed)}, while the job is suspended"
    )


def _tolerated(toleration: Toleration, allowed: list[str]) -> bool:
    """A toleration without a key tolerates every taint, and needs a pattern for every taint."""
    return _matches(toleration.key, allowed) if toleration.key else "*" in allowed


def _node_selector(spec: FineTuneJobSpec, required: dict[str, str]) -> str | None:
    """A label with another value than the administrator's, which counts, so that the pod would run elsewhere."""
    asked = (spec.scheduling.node_selector if spec.scheduling else None) or {}
    other = next((key for key, value in asked.items() if required.get(key, value) != value), None)
    if other is None:
        return None
    return (
        f"spec.scheduling.nodeSelector: the administrator requires nodes with {other}={required[other]}; remove"
        f" {other}, while the job is suspended"
    )


def _environment(spec: FineTuneJobSpec, settings: OperatorSettings) -> str | None:
    fixed = administrators_environment(settings)
    for index, variable in enumerate(spec.env or []):
        if variable.name in fixed and variable.value != fixed[variable.name]:
            return (
                f"spec.env[{index}]: {variable.name} is set by the administrator for all jobs"
                f" ({variable.name}={fixed[variable.name]}); create a new job without it"
            )
    return None


def _remedy(allowed: list[str]) -> str:
    return f"use one of {', '.join(allowed)}, or remove it" if allowed else "remove it"


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
