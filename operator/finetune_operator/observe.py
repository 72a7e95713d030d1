"""From the cluster to an Observation. Parses foreign objects with care: a strange value is None, never an exception."""

from datetime import datetime, timedelta
from typing import Any

from finetune_api import uris
from finetune_api.run import RunReport
from finetune_core.decide.observation import (
    ClaimView,
    ContainerEnd,
    InputView,
    JobView,
    Observation,
    PodView,
    QueueView,
)
from finetune_core.decide.queue import queue_of
from finetune_core.plan.claims import devices_of, gpus_are_claimed
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import COMPLETION_INDEX, JOB_UID, SELECTOR, attempt_in, attempt_name
from finetune_core.plan.pod import CONTAINER
from finetune_core.plan.volumes import input_locations
from finetune_core.wire import at, items, text, time_of
from finetune_operator.cache import Cache, Child, labels_in
from finetune_operator.cluster import Cluster
from finetune_operator.errors import ApiError
from finetune_operator.kueue import Kueue

Body = dict[str, Any]

_USUAL_POD = timedelta(seconds=3)
_FORBIDDEN = 403


async def observe(
    job: FineTuneJob,
    resolved: Resolved,
    cache: Cache,
    cluster: Cluster,
    kueue: Kueue,
    report: tuple[RunReport, datetime] | None,
    now: datetime,
) -> Observation:
    """What is seen of a job's children.

    That a Job is missing while its attempt is open is a finding with consequences, so it is asked of the API
    server itself; inputs are looked at only while a pod does not start, Events only while there is no pod, the queue
    only while the Job is suspended.
    """
    await _confirm_missing(job, cache, cluster)
    jobs = tuple(job_view(child.body) for child in cache.jobs_of(job.namespace, job.uid))
    pods = tuple(pod_view(child) for child in cache.pods_of(job.namespace, job.uid))
    inputs = await _inputs(job, resolved.output_uri, cluster) if _waits(job, jobs, pods) else ()
    without_pod = _job_without_pod(job, jobs, pods, now)
    refusal = await _pod_refusal(job.namespace, without_pod.uid, cluster) if without_pod else None
    queue = await _queue(job, jobs, kueue)
    claims = await _claims(job, cluster)
    said, said_at = report or (None, None)
    return Observation(jobs, pods, inputs, refusal, said, said_at, queue, claims)


async def _claims(job: FineTuneJob, cluster: Cluster) -> tuple[ClaimView, ...]:
    """The templates of claimed GPUs, while no attempt is open: an attempt keeps the number that it began with."""
    attempts = job.status.attempts
    if job.status.completion_time or (attempts and attempts[-1].end_time is None):
        return ()
    asked = job.spec.resources
    if asked is None or not gpus_are_claimed(asked):
        return ()
    return tuple(
        [await _claim(job.namespace, one.resource_claim_template_name, cluster) for one in asked.claims or []]
    )


async def _claim(namespace: str, template: str, cluster: Cluster) -> ClaimView:
    found = await cluster.get("ResourceClaimTemplate", namespace, template)
    return ClaimView(template, found is not None, devices_of(found))


async def _queue(job: FineTuneJob, jobs: tuple[JobView, ...], kueue: Kueue) -> QueueView | None:
    held = next((view for view in jobs if view.attempt == job.status.attempt and view.suspended), None)
    if held is None or queue_of(job) is None:
        return None
    return await kueue.view(job.namespace, held.name, held.uid)


async def _confirm_missing(job: FineTuneJob, cache: Cache, cluster: Cluster) -> None:
    attempts = job.status.attempts
    if not attempts or attempts[-1].end_time is not None:
        return
    name = attempt_name(job, attempts[-1].number)
    if any(child.body["metadata"]["name"] == name for child in cache.jobs_of(job.namespace, job.uid)):
        return
    if body := await cluster.get("Job", job.namespace, name):
        cache.put_child("Job", body)
    for body in await cluster.list_all("Pod", job.namespace, f"{SELECTOR},{JOB_UID}={job.uid}"):
        cache.put_child("Pod", body)


def _waits(job: FineTuneJob, jobs: tuple[JobView, ...], pods: tuple[PodView, ...]) -> bool:
    newest = [view for view in jobs if view.attempt == job.status.attempt]
    if not newest or any(view.suspended for view in newest):
        return False
    return not any(pod.attempt == job.status.attempt and pod.started for pod in pods)


def _job_without_pod(
    job: FineTuneJob, jobs: tuple[JobView, ...], pods: tuple[PodView, ...], now: datetime
) -> JobView | None:
    """The newest attempt's Job, if it has made no pod though it has had the time."""
    number, attempts = job.status.attempt, job.status.attempts
    begun = attempts[-1].start_time if attempts else None
    if begun is None or now - begun < _USUAL_POD or any(pod.attempt == number for pod in pods):
        return None
    waits = (view for view in jobs if view.attempt == number and not view.finished and not view.suspended)
    return next(waits, None)


async def _pod_refusal(namespace: str, uid: str, cluster: Cluster) -> str | None:
    """Why the Job controller cannot make the Job's pod: the newest of its Events, as far as they may be read."""
    fields = f"involvedObject.uid={uid},reason=FailedCreate"
    try:
        async for page in cluster.pages("Event", namespace, fields=fields):
            newest = max(page, key=lambda event: int(event["metadata"]["resourceVersion"]), default=None)
            return text(
                newest, "message"
            )  # of the first page: who may make Events decides how many there are
    except ApiError as error:
        if error.status != _FORBIDDEN:
            raise
    return None


async def _inputs(job: FineTuneJob, output_uri: str, cluster: Cluster) -> tuple[InputView, ...]:
    places = {(place.scheme, place.name): place for place in [*input_locations(job), uris.parse(output_uri)]}
    return tuple([await _input(job, place, cluster) for place in places.values()])


async def _input(job: FineTuneJob, place: uris.Location, cluster: Cluster) -> InputView:
    if place.scheme == "configMap":
        exists = await cluster.get("ConfigMap", job.namespace, place.name) is not None
        return InputView("ConfigMap", place.name, exists)
    claim = await cluster.get("PersistentVolumeClaim", job.namespace, place.name)
    if claim is None:
        return InputView("PersistentVolumeClaim", place.name, exists=False)
    bound = at(claim, "status", "phase") == "Bound"
    return InputView(
        "PersistentVolumeClaim", place.name, True, bound, text(claim, "spec", "storageClassName")
    )


def job_view(body: Body) -> JobView:
    """A Job as decisions see it."""
    conditions = _true_conditions(body)
    return JobView(
        name=body["metadata"]["name"],
        attempt=attempt_in(labels_in(body)) or 0,
        uid=body["metadata"]["uid"],
        deleting="deletionTimestamp" in body["metadata"],
        succeeded="Complete" in conditions,
        failed="Failed" in conditions,
        failure=conditions.get("Failed"),
        suspended=at(body, "spec", "suspend") is True,
    )


def pod_view(child: Child) -> PodView:
    """A Pod as decisions see it."""
    body = child.body
    conditions = _true_conditions(body)
    container = _container(body)
    running, waiting = at(container, "state", "running"), at(container, "state", "waiting")
    terminated = at(container, "state", "terminated")
    started = at(running, "startedAt") or at(terminated, "startedAt")
    return PodView(
        name=body["metadata"]["name"],
        attempt=attempt_in(labels_in(body)) or 0,
        phase=text(body, "status", "phase") or "Pending",
        node=text(body, "spec", "nodeName"),
        deleted=child.deleted,
        deleting="deletionTimestamp" in body["metadata"],
        started=time_of(started),
        end=_end(terminated),
        waiting_reason=text(waiting, "reason"),
        waiting_message=text(waiting, "message") or "",
        unschedulable=_unschedulable(body),
        gates=tuple(str(at(gate, "name")) for gate in items(body, "spec", "schedulingGates")),
        memory_limit=_memory_limit(body),
        disruption=conditions.get("DisruptionTarget"),
        status_reason=text(body, "status", "reason"),
        image_id=text(container, "imageID"),
        created=time_of(at(body, "metadata", "creationTimestamp")),
        index=_index(body),
    )


def _index(body: Body) -> int:
    found = labels_in(body).get(COMPLETION_INDEX, "0")
    return int(found) if found.isdecimal() else 0


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
