"""From the cluster to an Observation."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from finetune_api.status import PreflightStatus
from finetune_core.decide.observation import (
    ClaimView,
    JobView,
    Observation,
    PodView,
    QueueView,
)
from finetune_core.decide.pods import look_for_each_other
from finetune_core.decide.starting import USUAL_START
from finetune_core.plan.claims import accelerator_in, devices_of, templates_of
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import JOB_UID, SELECTOR, attempt_name, preflight_name, service_name
from finetune_core.plan.nodes import count_of
from finetune_operator.cache import Cache
from finetune_operator.cluster import Cluster
from finetune_operator.inputs import Inputs
from finetune_operator.kueue import Kueue
from finetune_operator.reports import Reports
from finetune_operator.warning_events import REFUSED, UNMOUNTED, WarningEvents

Body = dict[str, Any]

_USUAL_MOUNT = timedelta(seconds=10)


async def observe(
    job: FineTuneJob,
    resolved: Resolved,
    cache: Cache,
    cluster: Cluster,
    inputs: Inputs,
    warning_events: WarningEvents,
    kueue: Kueue,
    reports: Reports,
    now: datetime,
) -> Observation:
    """What is seen of a job's children.

    That a Job is missing while its attempt is open is a finding with consequences, so it is asked of the API
    server itself; inputs are looked at only while a pod does not start and before pods on several nodes do, their
    Service only until they have met, Events only while there is no pod or its volumes are not mounted, the queue only
    while the Job is suspended.
    """
    preflight = job.status.preflight
    if preflight and preflight.end_time is None:
        return await _observe_preflight(job, preflight, cache, cluster, inputs, warning_events, now)
    await _confirm_missing(job, cache, cluster)
    seen = _preflight_of(job, cache)
    jobs, pods = seen.jobs, seen.pods
    waits = _waits(job, jobs, pods, now) or _begins_on_several_nodes(job, resolved)
    places = await inputs.of(job, resolved.output_uri) if waits else ()
    if places and _may_lack_config_map(job, jobs, pods, now):
        places = (*places, await inputs.config_map(job.namespace, attempt_name(job, job.status.attempt or 0)))
    if _may_lack_service(job, resolved, pods, now):
        places = (*places, await inputs.service(job.namespace, service_name(job)))
    without_pod = _job_without_pod(job, jobs, pods, now)
    refusal = await _refusal(job, without_pod, warning_events) if without_pod else None
    queue = await _queue(job, jobs, kueue)
    claims = await claims_of(job, cluster)
    report, report_time = reports.get(job.uid) or (None, None)
    return replace(
        seen,
        pods=await _with_unmounted(job, pods, warning_events, now),
        inputs=places,
        pod_refusal=refusal,
        report=report,
        report_time=report_time,
        reporters=reports.reporters(job.uid),
        jobs_reporting=len(reports),
        queue=queue,
        claims=claims,
    )


async def _observe_preflight(
    job: FineTuneJob,
    preflight: PreflightStatus,
    cache: Cache,
    cluster: Cluster,
    inputs: Inputs,
    warning_events: WarningEvents,
    now: datetime,
) -> Observation:
    """The same while preflight is open, when there is no attempt. An output claim that is made later is not missing."""
    await _confirm(job, preflight_name(job, preflight.number), cache, cluster)
    seen = _preflight_of(job, cache)
    of = seen.of_preflight()
    child, pods = of.job(preflight.number), of.pods_of(preflight.number)
    late = preflight.start_time is not None and now - preflight.start_time >= USUAL_START
    if child is None or child.finished or not late or any(pod.started for pod in pods):
        return seen
    places = await inputs.of(job, job.spec.output.uri if job.spec.output else None)
    if child.mounts_config_map and any(_mounts_late(pod, now) for pod in pods):
        places = (*places, await inputs.config_map(job.namespace, child.name))
    refusal = None if pods else await _refusal(job, child, warning_events)
    pods = await _with_unmounted(job, seen.preflight_pods, warning_events, now)
    return replace(seen, inputs=places, pod_refusal=refusal, preflight_pods=pods)


async def _refusal(job: FineTuneJob, child: JobView, warning_events: WarningEvents) -> str | None:
    found = await warning_events.newest(job.namespace, child.uid, REFUSED)
    return found.message if found else None


async def _with_unmounted(
    job: FineTuneJob, pods: tuple[PodView, ...], warning_events: WarningEvents, now: datetime
) -> tuple[PodView, ...]:
    """The pods, with the words of who cannot mount a volume of one that has waited for longer than that takes."""
    return tuple(
        [
            replace(pod, unmounted=await _unmounted(job, pod, warning_events))
            if _lacks_volumes(pod) and _mounts_late(pod, now)
            else pod
            for pod in pods
        ]
    )


def _lacks_volumes(pod: PodView) -> bool:
    return not (pod.mounted or pod.started or pod.finished or pod.deleting)


async def _unmounted(job: FineTuneJob, pod: PodView, warning_events: WarningEvents) -> str | None:
    found = await warning_events.newest(job.namespace, pod.uid, UNMOUNTED)
    if found is None or (found.time and pod.scheduled and found.time < pod.scheduled):
        return None
    return found.message


def _preflight_of(job: FineTuneJob, cache: Cache) -> Observation:
    """What is seen of preflight and, while it is open, of attempts that a lost status does not know."""
    jobs, pods = cache.jobs_of(job.namespace, job.uid), cache.pods_of(job.namespace, job.uid)
    return Observation(
        jobs=tuple(view for view in jobs if not view.checks_only),
        pods=tuple(view for view in pods if not view.checks_only),
        preflight_jobs=tuple(view for view in jobs if view.checks_only),
        preflight_pods=tuple(view for view in pods if view.checks_only),
    )


async def claims_of(job: FineTuneJob, cluster: Cluster) -> tuple[ClaimView, ...]:
    """The templates of claimed devices, while no attempt is open: an attempt keeps what it began with."""
    attempts = job.status.attempts
    if job.status.completion_time or (attempts and attempts[-1].end_time is None):
        return ()
    return tuple([await _claim(job.namespace, name, cluster) for name in templates_of(job.spec.resources)])


async def _claim(namespace: str, template: str, cluster: Cluster) -> ClaimView:
    found = await cluster.get("ResourceClaimTemplate", namespace, template)
    return ClaimView(template, found is not None, devices_of(found), accelerator_in(found))


async def _queue(job: FineTuneJob, jobs: tuple[JobView, ...], kueue: Kueue) -> QueueView | None:
    held = next((view for view in jobs if view.attempt == job.status.attempt and view.suspended), None)
    if held is None or held.queue is None:
        return None
    return await kueue.view(job.namespace, held.name, held.uid)


async def _confirm_missing(job: FineTuneJob, cache: Cache, cluster: Cluster) -> None:
    attempts = job.status.attempts
    if not attempts or attempts[-1].end_time is not None:
        return
    await _confirm(job, attempt_name(job, attempts[-1].number), cache, cluster)


async def _confirm(job: FineTuneJob, name: str, cache: Cache, cluster: Cluster) -> None:
    """Ask for a Job that is missing, and for the pods of one that has ended before any was seen: watches may lag."""
    child = next((one for one in cache.jobs_of(job.namespace, job.uid) if one.name == name), None)
    if child and not (child.finished and _is_without_pods(job, child, cache)):
        return
    if child is None and (body := await cluster.get("Job", job.namespace, name)):
        cache.put_child("Job", body)
    for body in await cluster.list_all("Pod", job.namespace, f"{SELECTOR},{JOB_UID}={job.uid}"):
        cache.put_child("Pod", body)


def _is_without_pods(job: FineTuneJob, child: JobView, cache: Cache) -> bool:
    of = (child.attempt, child.checks_only)
    return not any((pod.attempt, pod.checks_only) == of for pod in cache.pods_of(job.namespace, job.uid))


def _waits(job: FineTuneJob, jobs: tuple[JobView, ...], pods: tuple[PodView, ...], now: datetime) -> bool:
    """Whether a pod should have started, or the scheduler says that it cannot."""
    newest = [view for view in jobs if view.attempt == job.status.attempt]
    if not newest or any(view.suspended for view in newest):
        return False
    own = [pod for pod in pods if pod.attempt == job.status.attempt]
    late = any(pod.unschedulable for pod in own) or _has_had_time(job, now)
    waiting = not any(pod.started for pod in own) or any(not pod.started and not pod.finished for pod in own)
    return late and waiting


def _may_lack_config_map(
    job: FineTuneJob, jobs: tuple[JobView, ...], pods: tuple[PodView, ...], now: datetime
) -> bool:
    """Whether a ConfigMap of the newest attempt may be gone: a node has had a pod for longer than volumes take."""
    number = job.status.attempt
    mounted = any(view.mounts_config_map for view in jobs if view.attempt == number)
    return mounted and any(_mounts_late(pod, now) for pod in pods if pod.attempt == number)


def _may_lack_service(job: FineTuneJob, resolved: Resolved, pods: tuple[PodView, ...], now: datetime) -> bool:
    """Whether the Service by which pods on several nodes find each other may be gone while they need it."""
    if not _on_several_nodes(job, resolved) or not _has_had_time(job, now):
        return False
    attempt = job.status.attempts[-1]
    alive = any(pod.attempt == attempt.number and not pod.finished for pod in pods)
    return attempt.end_time is None and alive and look_for_each_other(attempt, now)


def _mounts_late(pod: PodView, now: datetime) -> bool:
    return pod.node is not None and (pod.scheduled is None or now - pod.scheduled >= _USUAL_MOUNT)


def _has_had_time(job: FineTuneJob, now: datetime) -> bool:
    begun = job.status.attempts[-1].start_time if job.status.attempts else None
    return begun is not None and now - begun >= USUAL_START


def _begins_on_several_nodes(job: FineTuneJob, resolved: Resolved) -> bool:
    """Whether the next attempt of several pods may be about to begin."""
    status = job.status
    between = not status.attempts or status.attempts[-1].end_time is not None
    return _on_several_nodes(job, resolved) and between and status.completion_time is None


def _on_several_nodes(job: FineTuneJob, resolved: Resolved) -> bool:
    return count_of(resolved.resources) > 1 and not job.is_parent


def _job_without_pod(
    job: FineTuneJob, jobs: tuple[JobView, ...], pods: tuple[PodView, ...], now: datetime
) -> JobView | None:
    """The newest attempt's Job, if it has made no pod though it has had the time."""
    number = job.status.attempt
    if not _has_had_time(job, now) or any(pod.attempt == number for pod in pods):
        return None
    waits = (view for view in jobs if view.attempt == number and not view.finished and not view.suspended)
    return next(waits, None)
