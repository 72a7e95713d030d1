"""Preflight: a Job without GPUs that checks data, model and output before the first attempt. Pure.

As an attempt it is written to the status before its Job is created, and each step can be taken again:

    wanted, no try ──open──► try N, no Job ──create──► runs ──► passed ──► attempt 1, or the runs of a parent
        ▲                                               │  └──► Failed: what would fail with GPUs as well
        └── retry after a pause, resume ◄── closed ◄────┴── suspend: mark, then delete the Job
"""

from dataclasses import replace
from datetime import timedelta

from finetune_api.base import MESSAGE_LENGTH
from finetune_api.run import ExitCode, RunReport
from finetune_api.status import (
    AttemptStatus,
    FineTuneJobStatus,
    Phase,
    PreflightFindings,
    PreflightStatus,
    Reason,
    TrialState,
)
from finetune_core.decide.actions import Action, Decision
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.context import Context
from finetune_core.decide.deadlines import earliest, not_started_in_time, pause_before_retry, startup_deadline
from finetune_core.decide.ending import fail
from finetune_core.decide.failure import Evidence, Failure, classify, termination_report
from finetune_core.decide.observation import JobView, Observation, PodView
from finetune_core.decide.pending import has_lost, why_pending
from finetune_core.decide.pods import first_failing
from finetune_core.decide.queue import patch
from finetune_core.decide.reports import with_report
from finetune_core.decide.starting import USUAL_START, next_look, slow_from
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import preflight_name
from finetune_core.plan.nodes import count_of
from finetune_core.plan.preflight import wants_preflight
from finetune_core.settings import OperatorSettings

MOST_RETRIES = 5
SKIPPED = "Skipped"
_PASSED = (Reason.SUCCEEDED.value, SKIPPED)
_NEW = ("kind", "leastGpuMemory", "gpuNodes", "gpuProduct")
"""Fields of PreflightConfig that trainers of earlier versions do not know."""
_REQUEUE = timedelta(seconds=15)
_RUNS = "preflight checks data, model and output before GPUs are requested"


def awaits_preflight(job: FineTuneJob, resolved: Resolved, settings: OperatorSettings) -> bool:
    """Whether the first attempt, or the first run of a parent, waits for a preflight that has passed.

    A job that has begun does not, whatever its status lost, or knew before an upgrade.
    """
    return not begun(job.status) and not _passed(job.status) and wants_preflight(job, resolved, settings)


def begun(status: FineTuneJobStatus) -> bool:
    """Whether an attempt or a run was created."""
    trials = status.trials is not None and status.trials.total > 0
    members = any(member.state is not TrialState.PLANNED for member in status.members)
    return status.attempt is not None or trials or members


def _passed(status: FineTuneJobStatus) -> bool:
    return status.preflight is not None and status.preflight.reason in _PASSED


def open_preflight(context: Context) -> Decision:
    """Write the next try to the status, then create its Job."""
    before = context.status.preflight
    known = [child.attempt for child in context.observation.preflight_jobs]
    number = max([(before.number if before else 0) + 1, *known])
    found = PreflightStatus(number=number, retries=before and before.retries, start_time=context.now)
    context = context.update(preflight=found, retry_time=None)
    return context.conclude(_verdict(found), Action.CREATE_PREFLIGHT, context.now + USUAL_START)


def _verdict(found: PreflightStatus) -> Verdict:
    return Verdict(Phase.PENDING, Reason.PREFLIGHT, _RUNS + (f" (try {found.number})" * (found.number > 1)))


def during_preflight(context: Context, found: PreflightStatus) -> Decision | Context:
    """The next step of an open try; a Context in which it is closed when what follows has to be considered."""
    seen = context.observation.of_preflight()
    child, pods = seen.job(found.number), seen.pods_of(found.number)
    if child is None and all(pod.never_ran for pod in pods):
        return _without_job(context, found)
    ended = bool(pods) and all(pod.finished for pod in pods)
    if (ended or not pods) and (child is None or child.finished):
        return _close(context, found, pods, child)
    if (ended and _ended_well(pods)) or any(pod.unreachable(context.now) for pod in pods):
        return _close(context, found, pods, child)
    if found.reason == Reason.STARTUP_DEADLINE_EXCEEDED:
        return _stop_too_late(context, found)
    if context.job.spec.suspend or found.reason == Reason.SUSPENDED:
        return _stop(context, found)
    if child and child.suspended and all(pod.finished for pod in pods):
        return context.conclude(_held(context, child), requeue_at=context.now + _REQUEUE)
    if ended:  # how it ended is written once the Job controller has counted the pod
        return Decision(context.status, requeue_at=context.now + _REQUEUE)
    return _wait(context, seen, found, pods)


def _ended_well(pods: tuple[PodView, ...]) -> bool:
    """With `backoffLimit: 0` no pod follows, so nothing depends on the Job any more."""
    return all(pod.end is not None and pod.end.exit_code == 0 for pod in pods)


def _without_job(context: Context, found: PreflightStatus) -> Decision | Context:
    """The Job does not exist yet, or was deleted before its pod ran: create it, unless it is no longer wanted."""
    if found.reason == Reason.STARTUP_DEADLINE_EXCEEDED:
        return _too_late(context, found)
    if context.job.spec.suspend or found.reason == Reason.SUSPENDED:
        return _suspended(context, found)
    return Decision(context.status, Action.CREATE_PREFLIGHT, context.now + _REQUEUE)


def _suspended(context: Context, found: PreflightStatus) -> Context:
    update = {"reason": Reason.SUSPENDED.value, "message": "stopped by spec.suspend", "end_time": context.now}
    return context.update(preflight=found.model_copy(update=update))


def _stop(context: Context, found: PreflightStatus) -> Decision:
    """Nothing is lost: what it found so far is found again."""
    found = found.model_copy(update={"reason": Reason.SUSPENDED.value})
    verdict = Verdict(Phase.PENDING, Reason.STOPPING, "preflight stops (spec.suspend)")
    return context.update(preflight=found).conclude(verdict, Action.STOP_PREFLIGHT, context.now + _REQUEUE)


def _stop_too_late(context: Context, found: PreflightStatus) -> Decision:
    verdict = Verdict(Phase.PENDING, Reason.STOPPING, "preflight stops (not started in time)")
    return context.update(preflight=found).conclude(verdict, Action.STOP_PREFLIGHT, context.now + _REQUEUE)


def _too_late(context: Context, found: PreflightStatus) -> Decision:
    found = found.model_copy(update={"end_time": context.now})
    verdict = Verdict(Phase.FAILED, Reason.STARTUP_DEADLINE_EXCEEDED, f"preflight: {found.message}")
    return fail(context.update(preflight=found), verdict)


def _held(context: Context, child: JobView) -> Verdict:
    """Its Job is suspended: by a person, or by Kueue, which may be set to suspend Jobs without a queue."""
    namespace = context.job.namespace
    if child.queue:
        message = (
            f"preflight waits in queue {child.queue}: kubectl describe workloads -n {namespace} shows why"
        )
        return Verdict(Phase.PENDING, Reason.QUEUED, message)
    field = "parallelism" if child.scaled_down else "suspend"
    command = patch("job", child.name, namespace, field, "1" if child.scaled_down else "false")
    message = (
        f"preflight: the Job {child.name} is suspended, and not by this operator; {command} lets it continue. Where"
        " Kueue suspends Jobs without a queue, spec.preflight: Skip in a new job begins without it"
    )
    return Verdict(Phase.PENDING, Reason.QUEUED, message)


def _wait(context: Context, seen: Observation, found: PreflightStatus, pods: tuple[PodView, ...]) -> Decision:
    """An ordinary start and the check itself are written once: fewer writes, same news."""
    begins = found.start_time or context.now
    if any(pod.started and not pod.finished for pod in pods):
        return context.conclude(_verdict(found), requeue_at=context.now + _REQUEUE)
    of = AttemptStatus(number=found.number, start_time=begins)
    name = preflight_name(context.job, found.number)
    context = replace(context, observation=seen)
    if has_lost(context, name):
        return Decision(context.status, Action.CREATE_PREFLIGHT, context.now + _REQUEUE)
    pending = why_pending(context, of, name)
    child = seen.job(found.number)
    let_run = max(filter(None, (begins, child.resumed if child else None)))
    latest = startup_deadline(context, let_run, missing=pending.missing, since=pending.since)
    if latest is not None and context.now >= latest:
        message = not_started_in_time(context, pending.message)
        update = {"reason": Reason.STARTUP_DEADLINE_EXCEEDED.value, "message": message}
        return _stop_too_late(context, found.model_copy(update=update))
    slow = slow_from(context, pods, begins, pending)
    due = earliest(latest, next_look(context, pods, begins, slow) or context.now + _REQUEUE)
    if pending.reason is Reason.STARTING and context.now < slow:
        return Decision(context.status, requeue_at=due)
    verdict = Verdict(Phase.PENDING, pending.reason, f"preflight: {pending.message}")
    return context.conclude(verdict, requeue_at=due)


def _close(
    context: Context, found: PreflightStatus, pods: tuple[PodView, ...], child: JobView | None
) -> Decision | Context:
    """Record how it ended, and what follows."""
    lost = next((pod for pod in pods if pod.unreachable(context.now)), None)
    done = next((pod for pod in pods if pod.end and pod.end.exit_code == 0), None)
    pod = done or lost or first_failing(pods, own_script=False)
    report = termination_report(pod)
    found = _with_end(context, found, pod)
    if report and report.preflight and pod and pod.end and pod.end.exit_code == 0:
        return _succeed(context, found, report, report.preflight)
    if found.reason == Reason.STARTUP_DEADLINE_EXCEEDED:
        return _too_late(context, found)
    if found.reason == Reason.SUSPENDED:
        return _suspended(context, found)
    if _unknown_to_image(report):
        message = "spec.image is a trainer of an earlier version, which does not know this preflight"
        return _pass(context, found.model_copy(update={"reason": SKIPPED, "message": message}))
    unreachable = pod is not None and pod is lost
    evidence = Evidence(pod, report, False, child.failure if child else None, unreachable=unreachable)
    return _failed(context, found, _failure(evidence))


def _with_end(context: Context, found: PreflightStatus, pod: PodView | None) -> PreflightStatus:
    end = pod.end if pod else None
    return found.model_copy(
        update={
            "node": (pod.node if pod else None) or found.node,
            "running_time": (pod.started if pod else None) or found.running_time,
            "end_time": (end.finished if end else None) or context.now,
            "exit_code": end.exit_code if end and 0 <= end.exit_code <= 255 else None,
        }
    )


def _succeed(
    context: Context, found: PreflightStatus, report: RunReport, findings: PreflightFindings
) -> Decision | Context:
    context = context.with_status(with_report(context.status, report, context.now))
    said = {"reason": Reason.SUCCEEDED.value, "message": report.message}
    return _pass(context, found.model_copy(update={**dict(findings), **said}))


def _pass(context: Context, found: PreflightStatus) -> Decision | Context:
    """What follows is the first attempt. The next visit decides about what else has to be seen for it.

    These are the runs of a parent, claimed devices, and a volume for several pods.
    """
    context, resources = context.update(preflight=found), context.resolved.resources
    later = context.job.is_parent or resources.claims or count_of(resources) > 1
    if not later or context.job.spec.suspend:
        return context
    verdict = Verdict(Phase.PENDING, Reason.ACCEPTED, f"preflight has passed: {found.message}")
    return context.conclude(verdict, requeue_at=context.now)


def _unknown_to_image(report: RunReport | None) -> bool:
    """Whether the trainer refused a field of its configuration: it is older than preflight, or than that field."""
    if report is None or report.place is None:
        return False
    return report.exit_code == ExitCode.CONFIGURATION and report.place.field in _NEW


def _failure(evidence: Evidence) -> Failure:
    pod = evidence.pod
    if pod and pod.end and pod.end.exit_code == 0:
        message = (
            "exit code 0 without a preflight in the report; spec.image is not a trainer image of this version"
        )
        return Failure(Reason.UNKNOWN, message, retry=False)
    return classify(evidence)


def _failed(context: Context, found: PreflightStatus, failure: Failure) -> Decision | Context:
    said = {"reason": failure.reason.value, "message": failure.message[:MESSAGE_LENGTH]}
    found = found.model_copy(update=said)
    context = context.update(preflight=found)
    if not failure.retry:
        message = f"{failure.message} (found by preflight, no GPU was requested)"
        return fail(context, Verdict(Phase.FAILED, failure.reason, message))
    retries = (found.retries or 0) + 1
    if retries > MOST_RETRIES:
        message = (
            f"{failure.message} (try {found.number} of preflight, the last one; spec.preflight: Skip in a new job"
            " begins without it)"
        )
        return fail(context, Verdict(Phase.FAILED, failure.reason, message))
    wait = failure.pause or retries > 1
    return context.update(
        preflight=found.model_copy(update={"retries": retries}),
        retry_time=context.now + pause_before_retry(context, retries) if wait else None,
    )
