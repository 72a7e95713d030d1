"""Names, labels and owner references of children: functions of the job and the attempt, so they need no lookup."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from finetune_api import API_VERSION, GROUP, KIND
from finetune_api.status import LARGEST_ATTEMPT
from finetune_core.plan.finetunejob import FineTuneJob

MANAGER = "finetune-operator"
JOB_NAME = f"{GROUP}/job-name"
JOB_UID = f"{GROUP}/job-uid"
ATTEMPT = f"{GROUP}/attempt"
PREFLIGHT = f"{GROUP}/preflight"
PARENT_UID = f"{GROUP}/parent-uid"
TRIAL = f"{GROUP}/trial"
REPEAT = f"{GROUP}/repeat"
MEMBER = f"{GROUP}/member"
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
"""Label and annotation by which the Job controller numbers the pods of an Indexed Job."""
QUEUE = "kueue.x-k8s.io/queue-name"
SELECTOR = JOB_UID
"""Our own label: policies of a cluster rewrite common ones."""


def attempt_name(job: FineTuneJob, attempt: int) -> str:
    """Name of an attempt's Job and ConfigMap."""
    return _child_name(job.name, job.uid, "a", attempt)


def preflight_name(job: FineTuneJob, number: int) -> str:
    """Name of the Job and ConfigMap of a try of preflight."""
    return _child_name(job.name, job.uid, "p", number)


def _child_name(job_name: str, job_uid: str, kind: str, number: int) -> str:
    return f"{job_name}-{job_uid[:8]}-{kind}{number}"


def attempt_in(labels: Mapping[str, str]) -> int | None:
    """The attempt that an object's labels name; None if no attempt of ours can have that number."""
    return _number_in(labels, ATTEMPT)


def preflight_in(labels: Mapping[str, str]) -> int | None:
    """The try of preflight that an object's labels name; None for an attempt."""
    return _number_in(labels, PREFLIGHT)


def _number_in(labels: Mapping[str, str], label: str) -> int | None:
    text = labels.get(label, "")
    if not re.fullmatch("[1-9][0-9]{0,8}", text) or int(text) > LARGEST_ATTEMPT:
        return None
    return int(text)


def index_in(labels: Mapping[str, str]) -> int:
    """Which of the pods of its Job a pod with these labels is; 0 for the only one."""
    text = labels.get(COMPLETION_INDEX, "")
    return int(text) if re.fullmatch("[0-9]{1,6}", text) else 0


def name_in(labels: Mapping[str, str]) -> str | None:
    """The name that the Job of these labels has; None where they are not those of an attempt or a preflight."""
    attempt, preflight = attempt_in(labels), preflight_in(labels)
    name, uid = labels.get(JOB_NAME), labels.get(JOB_UID)
    if not (name and uid) or (attempt is None) == (preflight is None):
        return None
    return _child_name(name, uid, "a", attempt) if attempt else _child_name(name, uid, "p", preflight or 0)


class Run(NamedTuple):
    """A FineTuneJob that another one runs: a trial, one of its repetitions with another seed, or a member."""

    trial: int = 0
    rank: int = 0
    seed: int = 0
    member: int = 0

    @property
    def is_trial(self) -> bool:
        """Whether it is a trial itself."""
        return self.trial > 0 and self.rank == 0

    @property
    def suffix(self) -> str:
        """The end of its name."""
        if self.member:
            return f"m{self.member}"
        return f"t{self.trial:03}" if self.is_trial else f"c{self.rank}s{self.seed}"


class Parent(NamedTuple):
    """The search or ensemble that a FineTuneJob is a run of."""

    name: str
    uid: str
    run: Run


def run_name(job: FineTuneJob, run: Run) -> str:
    """Name of a run's FineTuneJob."""
    return _run_name(job.name, job.uid, run)


def _run_name(parent: str, parent_uid: str, run: Run) -> str:
    return f"{parent}-{parent_uid[:8]}-{run.suffix}"


def run_labels(job: FineTuneJob, run: Run) -> dict[str, str]:
    """Labels of a run."""
    ours = {"app.kubernetes.io/managed-by": MANAGER, PARENT_UID: job.uid}
    if run.member:
        return ours | {MEMBER: str(run.member)}
    repeat = {} if run.is_trial else {REPEAT: f"{run.rank}-{run.seed}"}
    return ours | {TRIAL: str(run.trial)} | repeat


def run_uri(output_uri: str, run: Run) -> str:
    """Where a run's model is written: beside that of its parent, never inside it."""
    return f"{runs_uri(output_uri, members=run.member > 0)}/{run.suffix}"


def runs_uri(output_uri: str, *, members: bool = False) -> str:
    """The folder with the models of all runs."""
    return f"{output_uri}-{'members' if members else 'trials'}"


def parent_in(metadata: Mapping[str, Any]) -> Parent | None:
    """What the metadata of a FineTuneJob say of the search or ensemble that it is a run of.

    Anybody can write labels and references: they count only together, and with the name that such a run has.
    """
    labels = metadata.get("labels")
    run = _run_in(labels) if isinstance(labels, Mapping) else None
    if run is None:
        return None
    for reference in metadata.get("ownerReferences") or []:
        name, uid = reference.get("name"), reference.get("uid")
        if reference.get("kind") == KIND and reference.get("controller") and isinstance(name, str):
            wanted = _run_name(name, str(uid), run)
            return Parent(name, str(uid), run) if metadata.get("name") == wanted else None
    return None


def _run_in(labels: Mapping[str, Any]) -> Run | None:
    member = str(labels.get(MEMBER, ""))
    if re.fullmatch("[1-9][0-9]?", member):
        return Run(member=int(member))
    trial, repeat = str(labels.get(TRIAL, "")), str(labels.get(REPEAT, "0-0"))
    if not re.fullmatch("[1-9][0-9]{0,2}", trial) or not re.fullmatch("0-0|[1-9]-[1-9]", repeat):
        return None
    return Run(int(trial), int(repeat[0]), int(repeat[2]))


def service_name(job: FineTuneJob) -> str:
    """Name of the Service by which the pods of a job on several nodes find each other."""
    return f"{job.name}-{job.uid[:8]}"


def output_claim_name(job: FineTuneJob) -> str:
    """Name of the claim that is created for a job without output.uri."""
    return f"{job.name}-{job.uid[:8]}"


def labels_of(job: FineTuneJob, attempt: int) -> dict[str, str]:
    """Labels of an attempt's objects."""
    return _labels(job) | {ATTEMPT: str(attempt)}


def _labels(job: FineTuneJob) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "finetune-trainer",
        "app.kubernetes.io/instance": job.name,
        "app.kubernetes.io/component": "trainer",
        "app.kubernetes.io/managed-by": MANAGER,
        JOB_NAME: job.name,
        JOB_UID: job.uid,
    }


@dataclass(frozen=True)
class Child:
    """The Job of an attempt or a preflight, with its ConfigMap and its pod: what they are called."""

    name: str
    labels: dict[str, str]
    attempt: int
    """The attempt, or the first one, which a preflight checks."""
    checks_only: bool = False
    """It trains nothing: a preflight."""


def attempt_child(job: FineTuneJob, attempt: int) -> Child:
    """The objects of an attempt."""
    return Child(attempt_name(job, attempt), labels_of(job, attempt), attempt)


def preflight_child(job: FineTuneJob, number: int) -> Child:
    """The objects of a try of preflight."""
    labels = _labels(job) | {PREFLIGHT: str(number)}
    return Child(preflight_name(job, number), labels, attempt=1, checks_only=True)


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


def metadata(job: FineTuneJob, child: Child) -> dict[str, Any]:
    """Metadata of a child's Job or ConfigMap."""
    return {
        "name": child.name,
        "namespace": job.namespace,
        "labels": child.labels,
        "ownerReferences": [owner_reference(job)],
    }
