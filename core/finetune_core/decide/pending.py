"""Why a job does not run yet, in one sentence that says what to do: an ordered chain of checks."""

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from finetune_api import uris
from finetune_api.status import AttemptStatus, Reason
from finetune_core.decide.context import Context
from finetune_core.decide.observation import InputView, PodView
from finetune_core.plan.hub import TOKEN_KEY, TOKEN_VOLUME, secret_of
from finetune_core.plan.naming import output_claim_name, service_name
from finetune_core.plan.placement import nodes_to_avoid
from finetune_core.plan.volumes import fields_in, place_of

_PULLING = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "RegistryUnavailable",
)
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_USUAL_BINDING = timedelta(seconds=30)
_TAIL = " preemption: "
"""Before what a scheduler says about pods of lower priority."""
_REMEDIES = {
    "exceeded quota": "wait until other pods of the namespace end, or suspend the job and ask for less in resources",
    "must specify": "suspend the job and write what the quota asks for in resources",
    "must be less than or equal to": "a limit range of the namespace set that limit: suspend the job and write it in"
    " resources.limits",
    "limit to request ratio": "suspend the job and write requests closer to the limits in resources; preflight, whose"
    " requests are smaller, is not done with spec.preflight: Skip in a new job",
    "minimum ": "suspend the job and ask for more in resources; preflight, which requests at most 2 CPUs and 8Gi of"
    " memory, is not done with spec.preflight: Skip in a new job",
    "usage per": "suspend the job and change resources to fit the limit range",
    "no PriorityClass": "create the PriorityClass, or suspend the job and change scheduling.priorityClassName",
}
"""By the words of the API server's admission."""
_MOUNTS = {
    "non-existent": "add that key, and the job continues",
    '" not found': "create it, and the job continues",
    "registered CSI drivers": "install that CSI driver on the node, or keep the pods from it by"
    " scheduling.nodeSelector",
    "external-attacher": "check that the controller of that CSI driver runs",
    "Multi-Attach": "the volume is free when the pods that use it on another node have ended",
    "mount failed": "check that the storage server runs and lets the node mount it",
}
"""By the words of the kubelet and the attach-detach controller."""
_ABSENT = tuple(_MOUNTS)[:2]
_NAMED_VOLUME = re.compile(r'for volume "([^"]+)"|unmounted volumes=\[([^\]\s,]+)')
_HINTS = {
    "cannot allocate all claims": "the devices of resources.claims are not free on any node: wait, or claim fewer",
    "is being deleted": "a pod that still uses the claim keeps it; once it is gone, make a new one",
    "Insufficient cpu": "wait, or ask for less cpu in resources.requests",
    "Insufficient memory": "wait, or ask for less memory in resources.requests",
    "untolerated taint": "scheduling.tolerations can tolerate a taint",
}


@dataclass(frozen=True)
class Pending:
    """Why nothing runs yet."""

    reason: Reason
    message: str
    missing: bool = False
    """Something has to be supplied: an image, a Secret, a volume."""
    since: datetime | None = None
    """When it began to wait for that; None for as long as the attempt."""
    hinted: bool = False
    """A start that nothing is seen to hinder, whose message says what may."""


def has_lost(context: Context, child: str) -> bool:
    """Whether what was made for the Job `child` is gone, and can be made again: its ConfigMap, the claim of the job's
    output, or the Service of its pods."""
    output = context.job.spec.output
    made = {("ConfigMap", child), ("Service", service_name(context.job))}
    if output is None or output.uri is None:
        made.add(("PersistentVolumeClaim", output_claim_name(context.job)))
    return any((one.kind, one.name) in made and not one.exists for one in context.observation.inputs)


def why_pending(context: Context, attempt: AttemptStatus, child: str) -> Pending:
    """The reason that stands furthest back in the chain input → node → image → container; `child` is its Job's name."""
    pods = [pod for pod in context.observation.pods_of(attempt.number) if not pod.finished]
    pod = next((pod for pod in pods if not pod.started), None)
    found = (
        _missing(context)
        or _refused(context, child, pod)
        or _unbound(context, attempt, pod)
        or _gated(pod)
        or _unscheduled(context, attempt, pod)
        or _unseen(context, attempt, pod)
        or _waiting(pod)
        or _unmounted(context, attempt, pod)
        or _starting(context, attempt, child, pod)
    )
    running = sum(pod.started is not None for pod in pods)
    if not running:
        return found
    return replace(found, message=f"{running} of {context.nodes} pods run and wait: {found.message}")


def _missing(context: Context) -> Pending | None:
    item = next((item for item in context.observation.inputs if not item.exists), None)
    if item is None:
        return None
    return Pending(
        Reason.MISSING_OBJECT,
        f"{item.kind} {item.name} does not exist in namespace {context.job.namespace}; create it and the job starts",
        missing=True,
    )


def _refused(context: Context, child: str, pod: PodView | None) -> Pending | None:
    """A quota, a limit range or a policy refuses the pod: only the Job's Events say so."""
    if pod is not None or context.observation.pod_refusal is None:
        return None
    return Pending(
        Reason.CHILD_REFUSED,
        f"the pod of Job {child} is refused: {context.observation.pod_refusal[:700]};"
        f" {_remedy(context.observation.pod_refusal)}",
    )


def _remedy(refusal: str) -> str:
    found = next((remedy for words, remedy in _REMEDIES.items() if words in refusal), None)
    return found or "the pod is created when that is resolved"


def _unbound(context: Context, attempt: AttemptStatus, pod: PodView | None) -> Pending | None:
    """A claim that binds with its first consumer waits for a pod, and with it for a node: that is normal."""
    item = next((item for item in context.observation.inputs if not item.bound), None)
    if item is None or pod is None or not _claims_hinder(context, attempt, pod):
        return None
    return Pending(Reason.CLAIM_NOT_BOUND, _unbound_message(item, context.job.namespace), missing=True)


def _claims_hinder(context: Context, attempt: AttemptStatus, pod: PodView) -> bool:
    return (not pod.unschedulable or _for_claims(pod)) and not _may_bind(context, attempt)


def _for_claims(pod: PodView) -> bool:
    """Whether the scheduler waits for volumes."""
    return "persistentvolume" in (pod.unschedulable or "").lower().replace(" ", "")


def _may_bind(context: Context, attempt: AttemptStatus) -> bool:
    """Whether volumes may still be on their way: most are made in seconds."""
    return context.now < (attempt.start_time or context.now) + _USUAL_BINDING


def _unbound_message(item: InputView, namespace: str) -> str:
    where = f"of storage class {item.storage_class}" if item.storage_class else "without storage class"
    return (
        f"the claim {item.name} {where} is not bound to a volume; see kubectl describe pvc {item.name}"
        f" -n {namespace}"
    )


def _gated(pod: PodView | None) -> Pending | None:
    if pod is None or not pod.gates:
        return None
    gates = ", ".join(pod.gates)
    return Pending(
        Reason.PENDING,
        f"the pod {pod.name} is held by the scheduling gate {gates}: it starts when whoever set the gate removes it",
    )


def _unscheduled(context: Context, attempt: AttemptStatus, pod: PodView | None) -> Pending | None:
    if pod is None or not pod.unschedulable or (_for_claims(pod) and _may_bind(context, attempt)):
        return None
    said = pod.unschedulable.partition(_TAIL)[0].strip().rstrip(".")
    hints = "; ".join(_hints(context, pod.unschedulable))
    return Pending(Reason.UNSCHEDULABLE, f"no node fits: {said[:600]}" + (f"; {hints}" if hints else ""))


def _hints(context: Context, said: str) -> list[str]:
    """What can be done about what a scheduler says; most of it only while the job is suspended."""
    wanted = context.resolved.resources
    if f"Insufficient {wanted.gpu_resource}" in said:
        return [
            f"no node offers {wanted.gpus_per_node} free {wanted.gpu_resource}: wait, or set"
            " resources.gpusPerNode: 0 to train on CPU"
        ]
    found = [hint for words, hint in _HINTS.items() if words in said]
    return [*found, *(_kept_from(context) if "node affinity/selector" in said else [])][:2]


def _kept_from(context: Context) -> list[str]:
    """Whose wishes keep the pod from the nodes: those of earlier failures, the job's, the administrator's."""
    excluded = ", ".join(nodes_to_avoid(context.status)[0])
    required = ", ".join(f"{key}={value}" for key, value in context.settings.node_selector.items())
    asked = context.job.spec.scheduling
    reasons = {
        f"it keeps away from {excluded}, where attempts failed (status.excludedNodes)": bool(excluded),
        "scheduling.nodeSelector asks for labels that no such node has": bool(asked and asked.node_selector),
        f"the administrator requires nodes with {required}": bool(required),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _unseen(context: Context, attempt: AttemptStatus, pod: PodView | None) -> Pending | None:
    """A scheduler that is not the cluster's own has not said anything."""
    name = context.job.spec.scheduling.scheduler_name if context.job.spec.scheduling else None
    begun = max(filter(None, (attempt.start_time, pod.created if pod else None)), default=context.now)
    if name is None or pod is None or pod.node or pod.unschedulable or context.now < begun + _USUAL_BINDING:
        return None
    return Pending(
        Reason.UNSCHEDULABLE,
        f"no scheduler has taken the pod {pod.name}: check that {name} (scheduling.schedulerName) runs in this cluster",
    )


def _waiting(pod: PodView | None) -> Pending | None:
    if pod is None:
        return None
    if pod.waiting_reason in _PULLING:
        why = (pod.waiting_message or pod.waiting_reason)[:700]
        return Pending(
            Reason.IMAGE_PULL_FAILED,
            f"the image cannot be pulled on node {pod.node}: {why};"
            " check spec.image and scheduling.imagePullSecrets",
            missing=True,
            since=pod.scheduled,
        )
    if pod.waiting_reason in _CONFIG:
        return Pending(
            Reason.PENDING,
            f"the container cannot start on node {pod.node}: {pod.waiting_message}",
            missing=True,
            since=pod.scheduled,
        )
    return None


def _unmounted(context: Context, attempt: AttemptStatus, pod: PodView | None) -> Pending | None:
    """Only the pod's Events say so."""
    if pod is None or pod.unmounted is None:
        return None
    said = " ".join(pod.unmounted.split())[:600].rstrip(". ")
    words = next((words for words in _MOUNTS if words in said), None)
    remedy = f"; {_MOUNTS[words]}" if words else "; the job continues when that is resolved"
    hint = _attached_elsewhere(context, attempt, pod) or remedy
    return Pending(
        Reason.MISSING_OBJECT if words in _ABSENT else Reason.STORAGE_FAILED,
        f"{_volume(context, said)} cannot be mounted on node {pod.node}: {said}{hint}",
        missing=True,
        since=pod.scheduled,
    )


def _volume(context: Context, said: str) -> str:
    """The volume in the kubelet's message: by its name in the pod, or by that of the PersistentVolume of a claim."""
    named = _NAMED_VOLUME.search(said)
    name = named and (named[1] or named[2])
    if not name:
        return "a volume"
    if name == TOKEN_VOLUME:
        return f"Secret {secret_of(context.job)} (spec.model.credentials.secretName)"
    claim = next((item for item in context.observation.inputs if item.volume == name), None)
    place = (
        uris.parse(f"pvc://{claim.name}")
        if claim
        else place_of(context.job, name, context.resolved.output_uri)
    )
    if place is None:
        return f"the volume {name}"
    fields = ", ".join(fields_in(context.job, place)[:3])
    what = "the claim" if place.scheme == "pvc" else "ConfigMap"
    return f"{what} {place.name}" + (f" ({fields})" if fields else "")


def _starting(context: Context, attempt: AttemptStatus, child: str, pod: PodView | None) -> Pending:
    if pod is None:
        return Pending(
            Reason.STARTING,
            f"waiting for the pod of Job {child}; kubectl describe job {child} -n {context.job.namespace} shows why",
        )
    where = f" on node {pod.node}" if pod.node else ""
    hint = _attached_elsewhere(context, attempt, pod) or _secret_hint(context, attempt, pod)
    return Pending(
        Reason.STARTING,
        f"the pod {pod.name} is starting{where}{hint}",
        missing=pod.node is not None,
        since=pod.scheduled,
        hinted=bool(hint),
    )


def _attached_elsewhere(context: Context, attempt: AttemptStatus, pod: PodView) -> str:
    """A volume of one node stays attached to a node that is lost, until somebody says that it is off."""
    before = context.status.attempts[-2] if len(context.status.attempts) > 1 else None
    claim = next((item for item in context.observation.inputs if _on_one_node(item)), None)
    if (
        before is None
        or before.reason != Reason.NODE_LOST
        or claim is None
        or pod.node in (None, before.node)
    ):
        return ""
    if context.now < (pod.scheduled or attempt.start_time or context.now) + _USUAL_BINDING:
        return ""
    return (
        f"; the claim {claim.name} is ReadWriteOnce, and its volume may still be attached to node {before.node}, which"
        f" is lost: when that node is off, kubectl taint node {before.node}"
        " node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, or kubectl delete node, frees it"
    )


def _on_one_node(item: InputView) -> bool:
    """Whether only the pods of one node can mount it at a time."""
    return bool(item.access_modes) and not any("Many" in mode for mode in item.access_modes)


def _secret_hint(context: Context, attempt: AttemptStatus, pod: PodView) -> str:
    """The operator may not read Secrets, and a pod without its Secret looks like one that pulls its image."""
    name = secret_of(context.job)
    if name is None or not pod.node or context.now < (attempt.start_time or context.now) + _USUAL_BINDING:
        return ""
    namespace = context.job.namespace
    return (
        f"; if it stays so, Secret {name} (model.credentials.secretName) or its key {TOKEN_KEY} may be missing in"
        f" namespace {namespace}: kubectl describe pod {pod.name} -n {namespace} shows why"
    )
