"""Names, labels and owner references of children: functions of the job and the attempt, so nothing is looked up."""

from typing import Any

from finetune_api import API_VERSION, GROUP, KIND
from finetune_operator.plan.finetunejob import FineTuneJob

MANAGER = "finetune-operator"
JOB_NAME = f"{GROUP}/job-name"
JOB_UID = f"{GROUP}/job-uid"
ATTEMPT = f"{GROUP}/attempt"
SELECTOR = f"app.kubernetes.io/managed-by={MANAGER}"


def attempt_name(job: FineTuneJob, attempt: int) -> str:
    """Name of an attempt's Job and ConfigMap."""
    return f"{job.name}-{job.uid[:8]}-a{attempt}"


def output_claim_name(job: FineTuneJob) -> str:
    """Name of the claim made for a job without an output of its own."""
    return f"{job.name}-{job.uid[:8]}"


def labels_of(job: FineTuneJob, attempt: int) -> dict[str, str]:
    """Labels of an attempt's objects."""
    return {
        "app.kubernetes.io/name": "finetune-trainer",
        "app.kubernetes.io/instance": job.name,
        "app.kubernetes.io/component": "trainer",
        "app.kubernetes.io/managed-by": MANAGER,
        JOB_NAME: job.name,
        JOB_UID: job.uid,
        ATTEMPT: str(attempt),
    }


def owner_reference(job: FineTuneJob) -> dict[str, Any]:
    """What makes the API server delete a child with its job."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        # true would need update on finetunejobs/finalizers where the API server checks it, as OpenShift's does
        "blockOwnerDeletion": False,
    }


def metadata(job: FineTuneJob, attempt: int) -> dict[str, Any]:
    """Metadata of an attempt's Job or ConfigMap."""
    return {
        "name": attempt_name(job, attempt),
        "namespace": job.namespace,
        "labels": labels_of(job, attempt),
        "ownerReferences": [owner_reference(job)],
    }
