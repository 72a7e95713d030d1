"""The objects of one attempt: the Job, the claim where the job names none, a ConfigMap for a large configuration."""

from dataclasses import dataclass
from typing import Any

from finetune_api.base import ApiModel
from finetune_api.search_history import SearchHistory
from finetune_core.plan.conclusion import conclusion_config, of_one_pod, with_less
from finetune_core.plan.effective import Resolved
from finetune_core.plan.files import CA_FILE, Files, config_map_of, files_of
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.kueue import passed
from finetune_core.plan.naming import (
    JOB_NAME,
    JOB_UID,
    MANAGER,
    QUEUE,
    attempt_child,
    metadata,
    output_claim_name,
)
from finetune_core.plan.nodes import accelerate_files, indexed, on_one_machine, service
from finetune_core.plan.pod import pod_template
from finetune_core.plan.run_config import run_config
from finetune_core.settings import OperatorSettings


@dataclass(frozen=True)
class Plan:
    """The objects of an attempt, in the order of creation. All are created once and never changed.

    `config_map` is None where the pod template carries the configuration.
    """

    claim: dict[str, Any] | None
    config_map: dict[str, Any] | None
    service: dict[str, Any] | None
    job: dict[str, Any]


def plan(
    job: FineTuneJob,
    resolved: Resolved,
    attempt: int,
    settings: OperatorSettings,
    ca_certificate: str,
    history: SearchHistory | None = None,
    *,
    in_config_map: bool = False,
) -> Plan:
    """The objects of an attempt; `ca_certificate` (PEM) is what trainers verify the progress endpoint by.

    `history` is that of a job with spec.search. `in_config_map` is for an attempt whose Job mounts a ConfigMap already.
    """
    config = attempt_config(job, resolved, attempt, settings, history)
    resolved, child = _for_the_pod(job, resolved), attempt_child(job, attempt)
    texts = {CA_FILE: ca_certificate} | accelerate_files(job, resolved.resources, attempt, settings)
    files = files_of(child, config, texts, in_config_map=in_config_map)
    return Plan(
        claim=output_claim(job, settings),
        config_map=config_map_of(job, child, files),
        service=service(job, resolved),
        job=_job(job, resolved, attempt, files, settings),
    )


def attempt_config(
    job: FineTuneJob,
    resolved: Resolved,
    attempt: int,
    settings: OperatorSettings,
    history: SearchHistory | None = None,
) -> ApiModel | None:
    """What the attempt's trainer reads as run.json; None for a script."""
    if job.is_parent:
        return conclusion_config(job, _for_the_pod(job, resolved), attempt, settings, history)
    return None if job.spec.command else run_config(job, resolved, attempt, settings)


def _for_the_pod(job: FineTuneJob, resolved: Resolved) -> Resolved:
    if not job.is_parent:
        return resolved
    single = of_one_pod(resolved, trains=job.trains)
    return single if job.trains else with_less(single, "ensemble" if job.spec.ensemble else "search")


def _job(
    job: FineTuneJob, resolved: Resolved, attempt: int, files: Files, settings: OperatorSettings
) -> dict[str, Any]:
    identity, queued = _queued(metadata(job, attempt_child(job, attempt)), job)
    body = job_of(identity, resolved, pod_template(job, resolved, attempt, files, settings))
    return body | {"spec": queued | body["spec"]}


def job_of(identity: dict[str, Any], resolved: Resolved, template: dict[str, Any]) -> dict[str, Any]:
    """The Job of an attempt or a preflight, with its metadata and its pod template."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": identity,
        "spec": {
            "backoffLimit": 0,  # the operator alone decides about the next attempt
            "podReplacementPolicy": "Failed",  # no second pod while the first may still write
            **indexed(resolved.resources),
            "template": template,
        },
    }


def _queued(identity: dict[str, Any], job: FineTuneJob) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metadata and spec of a Job that waits for its queue; the operator never writes `suspend` again.

    It is created suspended: where no Kueue is installed, nothing runs past the quota that the user asked to keep.
    """
    queue = job.spec.scheduling.queue if job.spec.scheduling else None
    if queue is None:
        return identity, {}
    return identity | {"labels": identity["labels"] | {QUEUE: queue} | passed(job.kueue_labels)}, {
        "suspend": True
    }


def output_claim(job: FineTuneJob, settings: OperatorSettings) -> dict[str, Any] | None:
    """The claim for a job without output.uri. It has no owner reference: a model outlives its job."""
    if job.spec.output and job.spec.output.uri:
        return None
    spec: dict[str, Any] = {
        "accessModes": [settings.output_access_mode or _access_mode(job)],
        "resources": {"requests": {"storage": settings.output_size}},
    }
    if settings.output_storage_class:
        spec["storageClassName"] = settings.output_storage_class
    labels = {"app.kubernetes.io/managed-by": MANAGER, JOB_NAME: job.name, JOB_UID: job.uid}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": output_claim_name(job), "namespace": job.namespace, "labels": labels},
        "spec": spec,
    }


def _access_mode(job: FineTuneJob) -> str:
    return "ReadWriteOnce" if on_one_machine(job) else "ReadWriteMany"
