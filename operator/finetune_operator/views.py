"""From a Job or Pod as the API server has it to what decisions see of it. Pure.

Foreign objects are parsed with care: a strange value is None, never an exception.
"""

from datetime import datetime
from typing import Any

from finetune_core.decide.observation import ContainerEnd, JobView, PodView
from finetune_core.plan.naming import QUEUE, attempt_in, index_in, preflight_in
from finetune_core.plan.pod import CONTAINER
from finetune_core.plan.volumes import OUTPUT_VOLUME
from finetune_core.wire import at, items, text, time_of

Body = dict[str, Any]

_GATES = 8


def job_view(body: Body) -> JobView:
    """A Job as decisions see it."""
    conditions, name = _true_conditions(body), body["metadata"]["name"]
    volumes = items(body, "spec", "template", "spec", "volumes")
    return JobView(
        name=name,
        attempt=_number_in(body),
        uid=body["metadata"]["uid"],
        deleting="deletionTimestamp" in body["metadata"],
        succeeded="Complete" in conditions,
        failed="Failed" in conditions,
        failure=conditions.get("Failed"),
        suspended=at(body, "spec", "suspend") is True or _is_scaled_down(body),
        scaled_down=_is_scaled_down(body),
        queue=labels_in(body).get(QUEUE),
        resumed=_resumed(body),
        checks_only=_checks_only(body),
        mounts_config_map=any(at(one, "configMap", "name") == name for one in volumes),
        mounts_output=any(at(one, "name") == OUTPUT_VOLUME for one in volumes),
    )


def _is_scaled_down(body: Body) -> bool:
    return bool(at(body, "spec", "parallelism") == 0)


def _resumed(body: Body) -> datetime | None:
    """When the Job was last let run, if it was suspended before."""
    for condition in items(body, "status", "conditions"):
        if at(condition, "type") == "Suspended" and at(condition, "status") == "False":
            return time_of(at(condition, "lastTransitionTime"))
    return None


def pod_view(body: Body, *, deleted: bool = False) -> PodView:
    """A Pod as decisions see it."""
    conditions = _true_conditions(body)
    container = _container(body)
    running, waiting = at(container, "state", "running"), at(container, "state", "waiting")
    terminated = at(container, "state", "terminated")
    started = at(running, "startedAt") or at(terminated, "startedAt")
    return PodView(
        name=body["metadata"]["name"],
        attempt=_number_in(body),
        phase=text(body, "status", "phase") or "Pending",
        node=text(body, "spec", "nodeName"),
        deleted=deleted,
        deleting="deletionTimestamp" in body["metadata"],
        started=time_of(started),
        end=_end(terminated),
        waiting_reason=text(waiting, "reason"),
        waiting_message=text(waiting, "message") or "",
        unschedulable=_unschedulable(body),
        gates=tuple(str(at(gate, "name")) for gate in items(body, "spec", "schedulingGates")[:_GATES]),
        memory_limit=_memory_limit(body),
        disruption=conditions.get("DisruptionTarget"),
        status_reason=text(body, "status", "reason"),
        status_message=text(body, "status", "message"),
        deletion=time_of(at(body, "metadata", "deletionTimestamp")),
        scheduled=_scheduled(body),
        companions=_companions(body),
        image_id=text(container, "imageID"),
        created=time_of(at(body, "metadata", "creationTimestamp")),
        index=index_in(labels_in(body)),
        checks_only=_checks_only(body),
        orphaned=not items(body, "metadata", "ownerReferences"),
        uid=text(body, "metadata", "uid") or "",
        mounted="PodReadyToStartContainers" in conditions,
    )


def _number_in(body: Body) -> int:
    """The attempt, or the try of preflight."""
    labels = labels_in(body)
    return attempt_in(labels) or preflight_in(labels) or 0


def _checks_only(body: Body) -> bool:
    return preflight_in(labels_in(body)) is not None


def _scheduled(body: Body) -> datetime | None:
    for condition in items(body, "status", "conditions"):
        if at(condition, "type") == "PodScheduled" and at(condition, "status") == "True":
            return time_of(at(condition, "lastTransitionTime"))
    return None


def _companions(body: Body) -> tuple[str, ...]:
    """Containers that run beside the trainer's."""
    statuses = items(body, "status", "containerStatuses")
    running = [one for one in statuses if at(one, "state", "running") is not None]
    return tuple(sorted(name for one in running if (name := text(one, "name")) and name != CONTAINER))


def _container(body: Body) -> Any:
    statuses = items(body, "status", "containerStatuses")
    return next((status for status in statuses if at(status, "name") == CONTAINER), None)


def _memory_limit(body: Body) -> str | None:
    """As the pod has it: a LimitRange may have set it."""
    containers = items(body, "spec", "containers")
    trainer = next((one for one in containers if at(one, "name") == CONTAINER), None)
    return text(trainer, "resources", "limits", "memory")


def _end(terminated: Any) -> ContainerEnd | None:
    if not isinstance(terminated, dict):
        return None
    code = terminated.get("exitCode")
    return ContainerEnd(
        exit_code=code if isinstance(code, int) else -1,
        reason=text(terminated, "reason") or "",
        message=text(terminated, "message") or "",
        finished=time_of(terminated.get("finishedAt")),
    )


def _unschedulable(body: Body) -> str | None:
    for condition in items(body, "status", "conditions"):
        if at(condition, "type") == "PodScheduled" and at(condition, "status") == "False":
            return str(at(condition, "message") or at(condition, "reason"))
    return None


def _true_conditions(body: Body) -> dict[str, str]:
    """Type to reason of the conditions that are True."""
    return {
        str(at(item, "type")): text(item, "reason") or ""
        for item in items(body, "status", "conditions")
        if at(item, "status") == "True"
    }


def labels_in(body: Body) -> dict[str, str]:
    """The labels whose values are strings."""
    labels = body["metadata"].get("labels")
    return {k: v for k, v in labels.items() if isinstance(v, str)} if isinstance(labels, dict) else {}
