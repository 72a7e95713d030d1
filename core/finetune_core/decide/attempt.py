"""An open attempt: create its Job, report on it, stop it, or close it. Pure."""

from dataclasses import replace
from datetime import datetime, timedelta

from pydantic.alias_generators import to_camel

from finetune_api.run import ExitCode
from finetune_api.status import AttemptStatus, FineTuneJobStatus, Phase, Reason
from finetune_core.decide.actions import Action, Decision
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.context import Context
from finetune_core.decide.deadlines import (
    deadline_of,
    earliest,
    not_started_in_time,
    over_deadline,
    started_by_our_clock,
    startup_deadline,
)
from finetune_core.decide.ending import STOP_REASONS, close
from finetune_core.decide.observation import JobView, PodView
from finetune_core.decide.pending import has_lost, why_pending
from finetune_core.decide.pods import apart, look_for_each_other
from finetune_core.decide.queue import held, with_eviction, without_seen_end
from finetune_core.decide.reports import with_resolved_image
from finetune_core.decide.starting import USUAL_START, next_look, slow_from
from finetune_core.decide.usage import newest_report, queued, reported, used_until
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import attempt_name
from finetune_core.plan.placement import OVERDUE

_REQUEUE_WHILE_PENDING = timedelta(seconds=15)
_LONGEST_WHILE_PENDING = timedelta(minutes=5)
_PROGRESS_WRITES_PER_SECOND = 80
"""Of all jobs together; with more than 800 that report, each of them is written less often than every ten seconds."""
_NODES_SHOWN = 4
_FIELDS = {
    Reason.SUSPENDED.value: "spec.suspend",
    Reason.DEADLINE_EXCEEDED.value: "spec.activeDeadlineSeconds",
    Reason.STARTUP_DEADLINE_EXCEEDED.value: "not started in time",
}
_LAST_CODES = (0, ExitCode.PRUNED)


def during_attempt(context: Context, attempt: AttemptStatus) -> Decision | Context:
    """The next step of an open attempt; a Context in which no attempt is open when another has to be considered."""
    child, pods = context.observation.job(attempt.number), context.observation.pods_of(attempt.number)
    if child is None and attempt.running_time is None and all(pod.never_ran for pod in pods):
        return _without_job(context, attempt)
    stored = context.status
    context, attempt = _observed(context, attempt, pods)
    if _is_over(child, pods) or _over_before_its_job(context, pods):
        return close(context, attempt)
    if _ends_the_job(context, pods) and isinstance(last := close(context, attempt), Decision):
        return last
    if child and child.suspended and all(pod.finished for pod in pods):
        context, attempt = with_eviction(context, attempt, pods)  # first: what follows does not count
    if reason := _stop_reason(context, attempt):
        return _stop(context, attempt.model_copy(update={"reason": reason.value}))
    if message := apart(context, attempt.number):
        update = {"reason": Reason.PODS_APART.value, "message": message}
        return _stop(context, attempt.model_copy(update=update))
    if child and child.suspended:
        return held(context, attempt, child, pods)
    if lost := next((pod for pod in pods if pod.unreachable(context.now)), None):
        return _stop_the_others(context, attempt, lost)
    return _ongoing(context, attempt, stored)


def _is_over(child: JobView | None, pods: tuple[PodView, ...]) -> bool:
    return (child is None or child.finished) and all(pod.finished for pod in pods)


def _over_before_its_job(context: Context, pods: tuple[PodView, ...]) -> bool:
    """Whether nothing more is to be expected of pods that still run.

    The trainer ended beside a container that runs on, or the node is lost. The Job is deleted before the next attempt
    begins, which ends the other container.
    """
    alive = [pod for pod in pods if not pod.finished]
    return bool(alive) and all(pod.only_companions_run or pod.unreachable(context.now) for pod in alive)


def _ends_the_job(context: Context, pods: tuple[PodView, ...]) -> bool:
    """Whether the trainer ended as it does when no attempt follows, so that nothing depends on the Job any more.

    The phase of such a pod never changes, and its finalizer keeps it until the Job controller has counted it: with
    `backoffLimit: 0` no pod follows it. The controller takes note a second later.
    """
    codes = [pod.end.exit_code if pod.end and pod.finished else None for pod in pods]
    everyone = len({pod.index for pod in pods}) >= context.nodes
    return everyone and all(code in _LAST_CODES for code in codes)


def _without_job(context: Context, attempt: AttemptStatus) -> Decision | Context:
    """The Job does not exist yet, or was deleted before its pod ran: create it, unless it is no longer wanted."""
    if attempt.reason == Reason.STARTUP_DEADLINE_EXCEEDED:
        return close(context, attempt)
    if context.job.spec.suspend or attempt.reason == Reason.SUSPENDED:
        update = {"reason": Reason.SUSPENDED.value, "counted": False, "end_time": context.now}
        context = queued(context, attempt.evicted_time or attempt.start_time, context.now)
        return context.with_attempt(attempt.model_copy(update=update))
    return Decision(context.status, Action.CREATE_ATTEMPT, context.now + USUAL_START)


def _observed(
    context: Context, attempt: AttemptStatus, pods: tuple[PodView, ...]
) -> tuple[Context, AttemptStatus]:
    """The attempt's record with the node, its image, and the time at which its container started.

    Pods that were evicted have been counted already; they stay in the cache until newer ones are created.
    """
    pods = tuple(pod for pod in pods if not _counted_already(attempt, pod))
    node = next((pod.node for pod in pods if pod.node), attempt.node)
    first = min((pod for pod in pods if pod.started), key=_started, default=None)
    if first is not None:  # also of one that has ended before anybody looked
        context = _with_image(context, pods)
    if first is not None and _all_newer(pods, attempt.running_time):
        context, attempt = without_seen_end(context, attempt, _started(first))
    if first is not None and attempt.running_time is None:
        running = started_by_our_clock(_started(first), first.created, attempt, context.now)
        context = queued(context, attempt.evicted_time or attempt.start_time, running)
        attempt = attempt.model_copy(update={"running_time": running})
    return context, attempt.model_copy(update={"node": node})


def _started(pod: PodView) -> datetime:
    assert pod.started
    return pod.started


def _all_newer(pods: tuple[PodView, ...], running: datetime | None) -> bool:
    """Whether these pods were created after those in the record began."""
    return running is not None and all(pod.created is not None and pod.created > running for pod in pods)


def _counted_already(attempt: AttemptStatus, pod: PodView) -> bool:
    return bool(attempt.evicted_time and pod.finished and pod.begun and pod.begun <= attempt.evicted_time)


def _stop_reason(context: Context, attempt: AttemptStatus) -> Reason | None:
    """Why the attempt must stop. Once marked it stops, even if spec.suspend is false again."""
    if attempt.reason in STOP_REASONS:
        return Reason(attempt.reason)
    if context.job.spec.suspend:
        return Reason.SUSPENDED
    return Reason.DEADLINE_EXCEEDED if over_deadline(context, attempt) else None


def _stop(context: Context, attempt: AttemptStatus) -> Decision:
    why = _FIELDS.get(str(attempt.reason), attempt.message)
    message = f"attempt {attempt.number} saves a checkpoint and stops ({why})"
    if attempt.running_time is None:
        message = f"attempt {attempt.number}, which has not begun to train, is stopped ({why})"
    pods = context.observation.pods_of(attempt.number)
    if kept := next((pod for pod in pods if pod.is_kept(context.now)), None):
        message = (
            f"attempt {attempt.number} has stopped ({why}), and a finalizer keeps its pod; kubectl get pod {kept.name}"
            f" -n {context.job.namespace} -o jsonpath='{{.metadata.finalizers}}' shows whose it is"
        )
    if left := next((pod for pod in pods if pod.orphaned and not pod.deleting and not pod.finished), None):
        message = (
            f"attempt {attempt.number} is to stop ({why}), but the pod {left.name} runs on without its Job, which"
            f" somebody deleted with --cascade=orphan; kubectl delete pod {left.name} -n {context.job.namespace} stops"
            " it"
        )
    verdict = Verdict(Phase.PENDING, Reason.STOPPING, message)
    return context.with_attempt(attempt).conclude(
        verdict, Action.STOP_ATTEMPT, context.now + _REQUEUE_WHILE_PENDING
    )


def _stop_the_others(context: Context, attempt: AttemptStatus, lost: PodView) -> Decision:
    """A pod on a node that does not answer: the others wait for it, and the attempt is over when they have ended."""
    message = f"node {lost.node} does not answer: the other pods are stopped, and the next attempt begins without it"
    return context.with_attempt(attempt).conclude(
        Verdict(Phase.RUNNING, Reason.STOPPING, message),
        Action.STOP_ATTEMPT,
        context.now + _REQUEUE_WHILE_PENDING,
    )


def _ongoing(context: Context, attempt: AttemptStatus, stored: FineTuneJobStatus) -> Decision:
    """`stored` is the status as it was: where nothing is written, no sum may grow without the attempt's record."""
    pods = context.observation.pods_of(attempt.number)
    awaited = [pod for pod in pods if not _counted_already(attempt, pod)]
    if any(pod.finished and not pod.never_ran for pod in awaited) and all(pod.finished for pod in pods):
        # how it ended is written once the Job controller has counted the pod
        return Decision(stored, requeue_at=context.now + _REQUEUE_WHILE_PENDING)
    if has_lost(context, attempt_name(context.job, attempt.number)):
        return Decision(stored, Action.CREATE_ATTEMPT, context.now + _REQUEUE_WHILE_PENDING)
    running = tuple(pod for pod in pods if pod.started and not pod.finished)
    begun = {pod.index for pod in pods if pod.started}
    if not running or len(begun) < context.nodes:
        return _pending(context, attempt, stored)
    context, attempt, progress_due = _with_progress(context, attempt)
    context = context.with_attempt(attempt)
    return context.conclude(
        _with_change(context, _runs(context.job, attempt, running)),
        requeue_at=earliest(
            progress_due, deadline_of(context, attempt), _next_look(context, attempt), *map(_overdue, running)
        ),
    )


def _next_look(context: Context, attempt: AttemptStatus) -> datetime | None:
    """When to see whether the pods of several nodes can still find each other: a lost Service is no event."""
    if context.nodes == 1 or not look_for_each_other(attempt, context.now):
        return None
    return context.now + _pause_while_pending(context, attempt.running_time or context.now)


def _with_change(context: Context, verdict: Verdict) -> Verdict:
    """The verdict with what the attempt does not have of the spec: nobody saw the job suspended while that changed."""
    asked, effective = context.job.spec.resources, context.status.effective
    given = effective.resources if effective else None
    if asked is None or given is None or context.job.is_parent:
        return verdict
    names = ("nodes", "gpus_per_node", "requests", "limits")
    other = [name for name in names if not _contains(getattr(given, name), getattr(asked, name))]
    if not other:
        return verdict
    fields = ", ".join(to_camel(name) for name in other)
    return replace(
        verdict,
        message=f"{verdict.message}; spec.resources ({fields}) was changed after it began: suspend the job until it is"
        " Suspended, and resume it",
    )


def _contains(given: object, asked: object) -> bool:
    if isinstance(given, dict) and isinstance(asked, dict):
        return asked.items() <= given.items()
    return asked is None or given == asked


def _runs(job: FineTuneJob, attempt: AttemptStatus, pods: tuple[PodView, ...]) -> Verdict:
    """A pod on a lost node is deleted only with its node, so the message says so."""
    if pod := next((pod for pod in pods if pod.deleting), None):
        overdue = _overdue(pod)
        by = f" If it has not by {overdue:%H:%M:%S} UTC, node {pod.node} counts as lost" if overdue else ""
        message = (
            f"the pod {pod.name} was asked to stop and has not ended yet.{by}"
            f"{' and the next attempt begins' if by else ''}"
        )
        return Verdict(Phase.RUNNING, Reason.STOPPING, message)
    message = f"attempt {attempt.number} {_activity(job)} {_where(attempt, pods)}"
    return Verdict(Phase.RUNNING, Reason.RUNNING, message)


def _where(attempt: AttemptStatus, pods: tuple[PodView, ...]) -> str:
    if len(pods) == 1:
        return f"on node {attempt.node}"
    nodes = list(dict.fromkeys(pod.node for pod in pods if pod.node))
    shown = f"{', '.join(nodes[:_NODES_SHOWN])}{' …' * (len(nodes) > _NODES_SHOWN)}"
    return f"in {len(pods)} pods on {'node' if len(nodes) == 1 else 'nodes'} {shown}"


def _overdue(pod: PodView) -> datetime | None:
    return pod.deletion + OVERDUE if pod.deleting and pod.deletion else None


def _activity(job: FineTuneJob) -> str:
    if job.spec.ensemble:
        return "trains a student of the members" if job.distils else "combines the members"
    return "copies the best model and writes the report" if job.spec.search else "trains"


def _pending(context: Context, attempt: AttemptStatus, stored: FineTuneJobStatus) -> Decision:
    begun, pods = _let_run(context, attempt), context.observation.pods_of(attempt.number)
    name = attempt_name(context.job, attempt.number)
    pending = why_pending(context, attempt.model_copy(update={"start_time": begun}), name)
    due = startup_deadline(context, begun, missing=pending.missing, since=pending.since)
    if due is not None and context.now >= due:
        message = not_started_in_time(context, pending.message)
        update = {"reason": Reason.STARTUP_DEADLINE_EXCEEDED.value, "message": message}
        return _stop(context, attempt.model_copy(update=update))
    slow = slow_from(context, pods, begun, pending)
    if pending.reason is Reason.STARTING and context.now < slow:
        return Decision(stored, requeue_at=earliest(due, next_look(context, pods, begun, slow)))
    verdict = _with_change(context, Verdict(Phase.PENDING, pending.reason, pending.message))
    return context.with_attempt(attempt).conclude(
        verdict, requeue_at=earliest(due, context.now + _pause_while_pending(context, begun))
    )


def _let_run(context: Context, attempt: AttemptStatus) -> datetime:
    """When the attempt's Job could begin to start: its time in a queue is none that something hinders."""
    child = context.observation.job(attempt.number)
    times = (attempt.start_time, child.resumed if child else None)
    return max(filter(None, times), default=context.now)


def _pause_while_pending(context: Context, begun: datetime) -> timedelta:
    """Growing: what starts a pod is an event, and thousands may wait for a node."""
    waited = (context.now - begun) / 4
    return min(max(waited, _REQUEUE_WHILE_PENDING), _LONGEST_WHILE_PENDING)


def _with_progress(
    context: Context, attempt: AttemptStatus
) -> tuple[Context, AttemptStatus, datetime | None]:
    """Apply the newest report, or requeue: progress causes at most one write per interval."""
    report, time = newest_report(context, attempt), context.observation.report_time
    if report is None or time is None:
        return context, attempt, None
    written = context.status.progress.last_update_time if context.status.progress else None
    if written and written > context.now:
        written = None  # by a clock that was ahead
    if written and time < written:
        return context, attempt, None
    due = written + _between_reports(context) if written else time
    if context.now < due:
        return context, attempt, due
    context, attempt = used_until(*reported(context, attempt, report, time), time)
    return context.with_attempt(attempt), attempt, None


def _between_reports(context: Context) -> timedelta:
    """Between two writes that carry progress only."""
    shared = context.observation.jobs_reporting / _PROGRESS_WRITES_PER_SECOND
    return timedelta(seconds=max(context.settings.progress_interval, shared))


def _with_image(context: Context, pods: tuple[PodView, ...]) -> Context:
    """Record the digest of the image that runs."""
    image = next((pod.image_id for pod in pods if pod.image_id), None)
    if image is None:
        return context
    return context.with_status(with_resolved_image(context.status, image))
