"""Names, labels and owner references of children: functions of the job and the attempt, so nothing is looked up."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from finetune_api import API_VERSION, GROUP, KIND
from finetune_api.status import LARGEST_ATTEMPT
from finetune_operator.plan.finetunejob import FineTuneJob

MANAGER = "finetune-operator"
JOB_NAME = f"{GROUP}/job-name"
JOB_UID = f"{GROUP}/job-uid"
ATTEMPT = f"{GROUP}/attempt"
PARENT_UID = f"{GROUP}/parent-uid"
TRIAL = f"{GROUP}/trial"
SELECTOR = f"app.kubernetes.io/managed-by={MANAGER}"


def attempt_name(job: FineTuneJob, attempt: int) -> str:
    """Name of an attempt's Job and ConfigMap."""
    return _attempt_name(job.name, job.uid, attempt)


def _attempt_name(job_name: str, job_uid: str, attempt: int) -> str:
    return f"{job_name}-{job_uid[:8]}-a{attempt}"


def attempt_in(labels: Mapping[str, str]) -> int | None:
    """The attempt that an object's labels name; None if no attempt of ours can have that number."""
    text = labels.get(ATTEMPT, "")
    if not re.fullmatch("[1-9][0-9]{0,8}", text) or int(text) > LARGEST_ATTEMPT:
        return None
    return int(text)


def name_in(labels: Mapping[str, str]) -> str | None:
    """The name that the Job of these labels has; None where they are not those of an attempt."""
    attempt, name, uid = attempt_in(labels), labels.get(JOB_NAME), labels.get(JOB_UID)
    return _attempt_name(name, uid, attempt) if attempt and name and uid else None


def trial_name(job: FineTuneJob, trial: int) -> str:
    """Name of a trial's FineTuneJob."""
    return _trial_name(job.name, job.uid, trial)


def _trial_name(parent: str, parent_uid: str, trial: int) -> str:
    return f"{parent}-{parent_uid[:8]}-t{trial:03}"


class Parent(NamedTuple):
    """The search that a FineTuneJob is a trial of, and the trial's number."""

    name: str
    uid: str
    trial: int


def parent_in(metadata: Mapping[str, Any]) -> Parent | None:
    """What the metadata of a FineTuneJob say of the search that it is a trial of.

    Anybody can write labels and references: they count only together, and with the name that a trial has.
    """
    labels = metadata.get("labels")
    number = labels.get(TRIAL) if isinstance(labels, Mapping) else None
    if not isinstance(number, str) or not re.fullmatch("[1-9][0-9]{0,2}", number):
        return None
    for reference in metadata.get("ownerReferences") or []:
        name, uid = reference.get("name"), reference.get("uid")
        if reference.get("kind") == KIND and reference.get("controller") and isinstance(name, str):
            trial = _trial_name(name, str(uid), int(number))
            return Parent(name, str(uid), int(number)) if metadata.get("name") == trial else None
    return None


def output_claim_name(job: FineTuneJob) -> str:
    """Name of the claim that is created for a job without output.uri."""
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
    """The owner reference, with which the API server deletes a child with its job."""
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
