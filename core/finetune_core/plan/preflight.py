"""Preflight: which jobs are checked on a CPU before they ask for GPUs, and the objects that do it."""

from dataclasses import replace
from typing import Any

from finetune_api.finetunejob import Preflight
from finetune_api.preflight import PreflightConfig
from finetune_api.resources import Quantities, ResourcesSpec, amount_of
from finetune_api.run import TERMINATION_LOG
from finetune_core.plan.effective import Resolved
from finetune_core.plan.files import CA_FILE, config_map_of, files_of
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.gpus import Gpus
from finetune_core.plan.naming import metadata, preflight_child
from finetune_core.plan.pod import template_of
from finetune_core.plan.run_config import run_config
from finetune_core.plan.volumes import OUTPUT, mounts_of, shared_tokens
from finetune_core.plan.workload import Plan, job_of, output_claim
from finetune_core.settings import OperatorSettings

_ENOUGH = {"cpu": "2", "memory": "8Gi"}
"""What preflight requests at most: a request for the work of training may fit no node without GPUs."""
_KEPT = (*_ENOUGH, "ephemeral-storage")


def wants_preflight(job: FineTuneJob, resolved: Resolved, settings: OperatorSettings) -> bool:
    """Whether the job is checked first.

    A run of a search or an ensemble is not, as its parent was; nor is a script, of which nothing is known.
    """
    if job.parent_uid or job.spec.command:
        return False
    if job.spec.preflight is None:
        return settings.preflight is Preflight.REQUIRED and _on_gpus(resolved)
    return job.spec.preflight is Preflight.REQUIRED


def _on_gpus(resolved: Resolved) -> bool:
    """Of claimed devices the number is not known before the first attempt."""
    return bool(resolved.resources.gpus_per_node or resolved.resources.claims)


def preflight_plan(
    job: FineTuneJob,
    resolved: Resolved,
    number: int,
    settings: OperatorSettings,
    ca_certificate: str,
    *,
    output_bound: bool,
    gpus: Gpus | None = None,
    in_config_map: bool = False,
) -> Plan:
    """The objects of a try of preflight. It makes no claim, as a job that fails is not to leave one behind.

    `output_bound` says whether the output claim has a volume. One that has none yet is not mounted: it may get its
    volume where its first pod runs, and the pod with the GPUs could not follow. `gpus` is what nodes show, where the
    administrator does not say how much memory a GPU has. `in_config_map` is for a try whose Job mounts a ConfigMap
    already.
    """
    child, silent = preflight_child(job, number), settings.model_copy(update={"progress_url": None})
    config = preflight_config(job, resolved, settings, output_bound=output_bound, gpus=gpus)
    places = [one for one in mounts_of(job, resolved.output_uri) if output_bound or one.path != OUTPUT]
    few = _on_few_cpus(resolved)
    files = files_of(child, config, {CA_FILE: ca_certificate}, in_config_map=in_config_map)
    return Plan(
        claim=None,
        config_map=config_map_of(job, child, files),
        service=None,
        job=job_of(metadata(job, child), few, template_of(job, few, child, places, files, silent)),
    )


def preflight_config(
    job: FineTuneJob,
    resolved: Resolved,
    settings: OperatorSettings,
    *,
    output_bound: bool,
    gpus: Gpus | None = None,
) -> PreflightConfig:
    """What the preflight of a job reads; of a search or an ensemble it checks the job without its runs' values."""
    run = run_config(job, resolved, 1, settings)
    output = run.output
    if job.is_parent:
        output = output.model_copy(update={"token_dir": shared_tokens(job.uid)})
    made = output_claim(job, settings) is not None and not output_bound
    return PreflightConfig(
        kind="PreflightConfig",
        run=run.model_copy(update={"output": output, "progress": None, "metrics_port": 0}),
        output_mounted=output_bound,
        output_size=_bytes(settings.output_size) if made else None,
        termination_log=TERMINATION_LOG,
        **_memory(settings, gpus),
    )


def _memory(settings: OperatorSettings, gpus: Gpus | None) -> dict[str, Any]:
    """What is known of the GPUs; of their memory the administrator's word counts before labels."""
    if settings.gpu_memory:
        return {"gpu_memory": _bytes(settings.gpu_memory)} | _kind(gpus)
    if gpus is None:
        return {}
    least = gpus.least_memory if gpus.least_memory < gpus.memory else None
    known = {"gpu_memory": gpus.memory, "least_gpu_memory": least, "gpu_nodes": gpus.nodes}
    return known | _kind(gpus)


def _kind(gpus: Gpus | None) -> dict[str, Any]:
    if gpus is None:
        return {}
    newest, oldest = gpus.capability, gpus.least_capability
    known = {"gpu_product": gpus.product, "gpu_capability": newest}
    return known | {"least_gpu_capability": oldest if oldest != newest else None}


def _bytes(quantity: str) -> int:
    return int(amount_of(quantity))


def _on_few_cpus(resolved: Resolved) -> Resolved:
    """The resources of a pod that reads and computes little: no GPUs, no device of another kind."""
    asked = resolved.resources
    limits = (
        {name: asked.limits[name] for name in _KEPT if name in (asked.limits or {})} if asked.limits else {}
    )
    resources: dict[str, Any] = {"nodes": 1, "gpus_per_node": 0, "claims": None, "limits": limits}
    resources["requests"] = {name: _least(name, asked) for name in _KEPT if _named(name, asked)}
    return replace(resolved, resources=asked.model_copy(update=resources))


def _named(name: str, asked: ResourcesSpec) -> bool:
    return name in (asked.requests or {}) or name in (asked.limits or {})


def _least(name: str, asked: ResourcesSpec) -> str:
    """What is requested: as asked for, else as the limit is, which would be the request; but not more than enough."""
    of: Quantities = {**(asked.limits or {}), **(asked.requests or {})}
    known = [of[name], *([_ENOUGH[name]] if name in _ENOUGH else [])]
    return min(known, key=amount_of)
